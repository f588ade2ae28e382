"""Keeps records whole when a signal comes, and writes them when the process ends."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from ncfast.tracking.recorder import Recorder


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


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Recording(Protocol):
    """What has a recorder."""

    _recorder: Recorder


Owner = TypeVar("Owner", bound=Recording)


def whole(
    method: Callable[Concatenate[Owner, Arguments], Result],
) -> Callable[Concatenate[Owner, Arguments], Result]:
    """Count the time of a method, and let nobody else look at a record half made."""

    @functools.wraps(method)
    def call(self: Owner, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        recorder = self._recorder
        with recorder.lock:
            if recorder.busy:
                return method(self, *args, **kwargs)
            begin = time.perf_counter()
            try:
                recorder.busy = True
                return method(self, *args, **kwargs)
            finally:
                recorder.busy = False
                recorder.seconds += time.perf_counter() - begin
                deliver_late()

    return cast("Callable[Concatenate[Owner, Arguments], Result]", call)
