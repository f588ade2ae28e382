"""``pytest benchmarks --benchmark-only``: the package alone, not the scripts beside it."""

collect_ignore_glob = ["studies/*", "plain/*", "operations/*"]
