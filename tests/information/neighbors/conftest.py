"""The fixtures of the tests of backends: each instruction set, and outputs that start as NaN."""

from backends.conftest import instruction_set, poison

__all__ = ["instruction_set", "poison"]
