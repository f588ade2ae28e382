"""Delays signals while a record is incomplete, and writes all records on SIGTERM."""

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

_live: weakref.WeakSet[Recorder] = weakref.WeakSet()
_previous: Any = None  # the handler of SIGTERM before ours
_delayed: list[tuple[int, FrameType | None]] = []  # signals that came during a step


def watch(recorder: Recorder) -> None:
    """Flush ``recorder`` on SIGTERM, then call the previous handler, or end the process.

    Python allows signal handlers only in the main thread: in another thread this does nothing.
    """
    global _previous
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not _handle:
        _previous = signal.signal(signal.SIGTERM, _handle)
    _live.add(recorder)


def unwatch(recorder: Recorder) -> None:
    """Forget ``recorder``; after the last one, restore the previous handler."""
    _live.discard(recorder)
    if _live or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is _handle:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if _previous is None else _previous)


def _handle(number: int, frame: FrameType | None) -> None:
    # during a step a record is incomplete: the end of the step handles the signal
    if any(recorder.busy for recorder in _live):
        _delayed.append((number, frame))
    else:
        _finish(number, frame)


def _handle_delayed() -> None:
    if _delayed and not any(recorder.busy for recorder in _live):
        _finish(*_delayed.pop())


def _finish(number: int, frame: FrameType | None) -> None:
    for recorder in list(_live):
        with contextlib.suppress(Exception):
            recorder.leave_ranks()  # this rank may be the only one with a signal
            recorder.flush()
    if callable(_previous):
        _previous(number, frame)
    elif _previous != signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


class Recording(Protocol):
    """An object that has a recorder."""

    _recorder: Recorder


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Owner = TypeVar("Owner", bound=Recording)


def signal_safe(
    method: Callable[Concatenate[Owner, Arguments], Result],
) -> Callable[Concatenate[Owner, Arguments], Result]:
    """Decorate a method that SIGTERM and other threads must not interrupt.

    The time of the method is added to the recorder's ``seconds``.
    """

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
                _handle_delayed()

    return cast("Callable[Concatenate[Owner, Arguments], Result]", call)


# the signals whose handlers may raise; to ask for all signals would take longer than a step
_NAMES = ("INT", "TERM", "ALRM", "HUP", "QUIT", "USR1", "USR2", "VTALRM", "PROF")
_SIGNALS = [getattr(signal, f"SIG{name}") for name in _NAMES if hasattr(signal, f"SIG{name}")]


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """Delay Python's signal handlers to the end of the ``with`` block, where they may raise.

    Python runs handlers only in the main thread: in another thread this does nothing.
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
    """Install all handlers again, even if one of them runs meanwhile and raises."""
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
