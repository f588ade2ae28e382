"""Fixtures of the neighbor tests: each instruction set, and outputs that start as NaN."""

from backends.conftest import instruction_set, poison

__all__ = ["instruction_set", "poison"]
