"""Benchmarks anyone can rerun: ``ncfast bench``; installed as ``ncfast.benchmarks``."""
