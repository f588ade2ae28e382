"""Ends the ``ncfast`` command with one line on Ctrl-C, also while torch is still being imported.

This is imported before everything else, and does nothing in any other program.
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
    original = sys.orig_argv  # of -m, sys.argv does not yet know the module's name
    slot = original[-len(sys.argv)] if 0 < len(sys.argv) <= len(original) else ""
    return PurePath(slot).stem == "ncfast"


def quit_at_once() -> None:
    """From now on Ctrl-C ends the process at once: while there is nothing to save."""
    # not where it is ignored, as in a shell's background job, nor outside the main thread
    with contextlib.suppress(ValueError):
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _quit)


@contextlib.contextmanager
def raised() -> Iterator[Interrupts]:
    """In the block Ctrl-C is a KeyboardInterrupt, so that what is half written is cleaned up."""
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
    """Whether there was one: an extension that is being imported makes an ImportError of it."""

    seen = False


def _quit(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{LINE}\n".encode())
    os._exit(STATUS)


if is_command():
    quit_at_once()
