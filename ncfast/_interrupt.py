"""Ends the ``ncfast`` command with one line on Ctrl-C, also while torch is still being imported.

This module is imported first. It has no effect in other programs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import PurePath
from types import FrameType

STATUS = 128 + signal.SIGINT
LINE = "ncfast: interrupted"


def is_command() -> bool:
    """Whether this process is ``ncfast`` or ``python -m ncfast``."""
    original = sys.orig_argv  # with -m, sys.argv does not hold the name of the module yet
    slot = original[-len(sys.argv)] if 0 < len(sys.argv) <= len(original) else ""
    return PurePath(slot).stem == "ncfast"


def quit_at_once() -> None:
    """Let Ctrl-C end the process at once, as long as there is nothing to save."""
    # Ignored signals stay ignored (background jobs of a shell); other threads cannot set handlers.
    with contextlib.suppress(ValueError):
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _quit)


@contextlib.contextmanager
def raised() -> Iterator[Interrupts]:
    """Let Ctrl-C raise KeyboardInterrupt in the block, so that unfinished files are cleaned up."""
    interrupts = Interrupts()
    if not is_command() or signal.getsignal(signal.SIGINT) is not _quit:
        yield interrupts
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.seen = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, _quit)


class Interrupts:
    """Whether Ctrl-C was pressed. During the import of an extension it becomes an ImportError."""

    seen = False


def _quit(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{LINE}\n".encode())
    os._exit(STATUS)


if is_command():
    quit_at_once()
