"""Turns Ctrl-C and SIGTERM into a flag, so that they take effect between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from typing_extensions import Self


class InterruptFlag:
    """A context in which the first SIGINT or SIGTERM sets ``raised``.

    A second signal raises KeyboardInterrupt. Python allows signal handlers only in the main thread;
    in other threads the flag is never set.
    """

    def __init__(self) -> None:
        self.raised = False
        self._previous: dict[int, object] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.raised:
            raise KeyboardInterrupt
        self.raised = True

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
