"""The base of the callbacks: a tracker for each training, harmless hooks, readers of batches."""

from __future__ import annotations

import functools
import os
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ncfast.features.batches import MASK
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


def mask_of(inputs: Any, labels: Any) -> Tensor | None:
    """The "attention_mask" of a dict of inputs, if it has the shape of the labels."""
    mask = inputs.get(MASK) if isinstance(inputs, Mapping) else None
    fits = isinstance(mask, Tensor) and isinstance(labels, Tensor) and mask.shape == labels.shape
    return mask.detach() if fits and isinstance(mask, Tensor) else None


def next_tokens(labels: Tensor, mask: Tensor | None, shift: int) -> tuple[Tensor, Tensor]:
    """Labels ``shift`` tokens later, and a mask that leaves out the tokens without one.

    Labels and mask stay (B, T), the shape of the features. A pair of tokens counts if the mask
    holds for both.
    """
    mask = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask > 0
    kept = torch.zeros_like(mask)
    kept[:, :-shift] = mask[:, :-shift] & mask[:, shift:]
    return labels.roll(-shift, 1), kept


class Logits:
    """The logits (N, K), or (B, T, K), of a module's forward pass, caught by hooks.

    If the module was called once, its output is taken; otherwise the output of the only direct
    submodule that returned logits once. With no such output, or several, there are none.
    """

    def __init__(self, module: nn.Module, num_classes: int) -> None:
        self._found: list[tuple[bool, Tensor]] = []
        self._num_classes, self._module = num_classes, module
        modules = [module, *module.children()]
        self._handles = [m.register_forward_hook(self._keep) for m in modules]

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Mapping):  # the output of a model of transformers
            output = output.get("logits")
        of_classes = isinstance(output, Tensor) and output.shape[-1:] == (self._num_classes,)
        if of_classes and output.ndim in (2, 3):
            self._found.append((module is self._module, output))

    def take(self) -> Tensor | None:
        """The logits since the last call, which are forgotten."""
        found, self._found = self._found, []
        own = [output for of_module, output in found if of_module]
        # a container returns the very output of its last module
        chosen = {id(output): output for output in own or [output for _, output in found]}
        return next(iter(chosen.values())) if len(chosen) == 1 else None

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
