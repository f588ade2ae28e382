"""Benchmarks behind ``ncfast bench``, installed as ``ncfast.benchmarks``."""
