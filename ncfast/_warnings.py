"""Finds the line of the user's code at which a warning should point."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

# torch calls the package as well, from its decorators for example
_PACKAGES = tuple(f"{Path(file).parent}{os.sep}" for file in (__file__, torch.__file__))


def user_level() -> int:
    """The ``stacklevel`` at which the caller's warning points outside of this package and torch."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGES):
        level, frame = level + 1, frame.f_back
    return level
