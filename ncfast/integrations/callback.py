"""The base of the callbacks: one tracker for each training, the user's sinks, harmless hooks."""

from __future__ import annotations

import functools
import os
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import nn

from ncfast.tracking.sinks import Record, as_sink, listed
from ncfast.tracking.tracker import Tracker

Method = TypeVar("Method", bound=Callable[..., None])


class Measuring:
    """A tracker for each training, and the sinks of the user.

    Args:
        sinks: as for `ncfast.Tracker`. A path or a name is opened anew by each training; an object
            stays open from one training to the next.
        options: further arguments of `ncfast.Tracker`.
    """

    tracker: Tracker | None

    def __init__(self, sinks: Sequence[Any], options: dict[str, Any]) -> None:
        self.tracker = None
        self._running = False
        self._options = {"group": "auto", **options}
        self._sinks = [_kept(sink) for sink in listed(sinks)]
        self._said: set[str] = set()
        self._trackers: list[Tracker] = []  # the current one
        self._end: weakref.finalize[[list[Tracker], Sequence[Any]], Any] | None = None

    def close(self) -> None:
        """Close the sinks that were passed as objects; the end of the process closes them too.

        A training that ends leaves them open, with all records in them, for the next one.
        """
        self._stop()
        if self._end is not None:
            self._end()
            self._end = None

    def _start(self, model: nn.Module, step: int, writes: bool) -> None:
        """Make the tracker of a training.

        Args:
            model: the model to track.
            step: the step of its present state.
            writes: whether this process writes to the sinks.
        """
        self._stop()  # an earlier training may have ended in an exception
        self._said.clear()
        sinks = self._sinks if writes else []
        if self._end is None:  # made in the process that writes
            self._end = weakref.finalize(self, _close, self._trackers, sinks)
        for sink in sinks:
            if isinstance(sink, KeptOpen):
                sink.open()
        self.tracker = Tracker(model, sinks=sinks, start_step=step, **self._options)
        self._trackers[:] = [self.tracker]
        self._running = True

    def _stop(self) -> None:
        """Write what is left."""
        self._running = False
        if self.tracker is not None:
            self.tracker.close()

    def _forget(self) -> None:
        """Forget the features of a batch that no optimiser step follows."""
        if self.tracker is not None and self.tracker._capture is not None:
            self.tracker._capture.take()

    def _say(self, about: str, message: str) -> None:
        if about not in self._said:
            self._said.add(about)
            warnings.warn(message, RuntimeWarning, stacklevel=4)


def harmless(method: Method) -> Method:
    """A hook of a callback that never ends the training: an exception becomes one warning.

    With ``on_sink_error="raise"`` the exception is raised.
    """

    @functools.wraps(method)
    def guarded(self: Measuring, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            if self._options.get("on_sink_error") == "raise":
                raise
            self._say(
                method.__name__,
                f"Measuring failed in {type(self).__name__}.{method.__name__}, training goes on: "
                f"{type(error).__name__}: {error}",
            )

    return guarded  # type: ignore[return-value]


class KeptOpen:
    """A sink that a tracker writes to but does not close.

    Args:
        given: an object that `as_sink` takes.
    """

    def __init__(self, given: Any) -> None:
        self._given = given
        self.wrapped: Any = None

    def __getattr__(self, name: str) -> Any:  # start, flush and write_block, if the sink has them
        if name.startswith("_") or name == "wrapped":  # a copy is being made
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def open(self) -> None:
        """Make the sink if there is none."""
        if self.wrapped is None:
            self.wrapped = as_sink(self._given)

    def write(self, record: Record) -> None:
        """Write to the sink."""
        self.wrapped.write(record)

    def close(self) -> None:
        """Nothing: every block has been flushed."""

    def finish(self) -> None:
        """Close the sink."""
        sink, self.wrapped = self.wrapped, None
        if sink is not None:
            sink.close()


def _kept(sink: Any) -> Any:
    return sink if isinstance(sink, (str, os.PathLike)) else KeptOpen(sink)


def _close(trackers: Sequence[Tracker], sinks: Sequence[Any]) -> None:
    for tracker in trackers:  # the records that it holds go to the sinks first
        tracker.close()
    for sink in sinks:
        if isinstance(sink, KeptOpen):
            sink.finish()
