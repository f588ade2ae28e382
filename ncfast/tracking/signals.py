"""Holds signal handlers back for a moment, so that none raises between two steps of one action."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

# those whose handlers are known to raise; to ask for all takes longer than a step
_NAMES = ("INT", "TERM", "ALRM", "HUP", "QUIT", "USR1", "USR2", "VTALRM", "PROF")
_SIGNALS = [getattr(signal, f"SIG{name}") for name in _NAMES if hasattr(signal, f"SIG{name}")]


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Inside, handlers written in Python wait; they run at the end, and may raise there.

    Python runs them in the main thread alone: elsewhere nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    handlers = {int(n): h for n in _SIGNALS if callable(h := signal.getsignal(n))}
    try:
        for number in handlers:
            signal.signal(number, lambda *call: came.append(call))
        yield
    finally:
        _restore(handlers)
        for caught, frame in came:
            handlers[caught](caught, frame)


def _restore(handlers: dict[int, Any]) -> None:
    """Put all handlers back, also when one of them runs in between and raises."""
    left, error = list(handlers.items()), None
    while left:
        try:
            while left:
                signal.signal(*left[-1])
                left.pop()
        except BaseException as raised:  # noqa: PERF203
            error = raised
    if error is not None:
        raise error
