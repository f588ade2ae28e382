"""Turns Ctrl-C and SIGTERM into a flag, so that a step is never cut in two."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from typing_extensions import Self


class InterruptFlag:
    """Inside the block the first SIGINT or SIGTERM sets ``raised``; a second one interrupts.

    Outside the main thread, where Python allows no handlers, it stays unset.
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
