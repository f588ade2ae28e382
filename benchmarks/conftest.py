"""Configures ``pytest benchmarks --benchmark-only``: it collects the package, not the scripts."""

collect_ignore_glob = ["studies/*", "plain/*", "operations/*"]
