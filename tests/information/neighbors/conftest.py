"""Fixtures of the neighbour tests: each instruction set, and outputs that start as NaN."""

from ops.conftest import instruction_set, poison

__all__ = ["instruction_set", "poison"]
