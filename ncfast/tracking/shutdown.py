"""Writes what trackers hold when the process is told to end by SIGTERM."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import weakref
from types import FrameType
from typing import Any, Protocol


class Flushable(Protocol):
    """What has something to write."""

    busy: bool

    def flush(self) -> None:
        """Write it, and wait until it is written."""

    def leave(self) -> None:
        """Wait for no other rank."""


_live: weakref.WeakSet[Any] = weakref.WeakSet()
_previous: Any = None
_waiting: list[tuple[int, FrameType | None]] = []


def watch(recorder: Flushable) -> None:
    """Flush ``recorder`` on SIGTERM; then do what would have happened without.

    Python allows handlers in the main thread alone: elsewhere nothing is installed.
    """
    global _previous
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not _handle:
        _previous = signal.signal(signal.SIGTERM, _handle)
    _live.add(recorder)


def unwatch(recorder: Flushable) -> None:
    """Forget ``recorder``; after the last one the handler that was there before is back."""
    _live.discard(recorder)
    if _live or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is _handle:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if _previous is None else _previous)


def deliver_late() -> None:
    """Act on a signal that came while a recorder was busy; called when it no longer is."""
    if _waiting and not any(recorder.busy for recorder in _live):
        _finish(*_waiting.pop())


def _handle(number: int, frame: FrameType | None) -> None:
    # a step that is cut in two has half a record: let it end first
    if any(recorder.busy for recorder in _live):
        _waiting.append((number, frame))
    else:
        _finish(number, frame)


def _finish(number: int, frame: FrameType | None) -> None:
    for recorder in list(_live):
        with contextlib.suppress(Exception):
            recorder.leave()  # the signal may have come to this rank alone
            recorder.flush()
    if callable(_previous):
        _previous(number, frame)
    elif _previous != signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
