"""`Tracker`: collapse metrics of a model while it trains."""

from __future__ import annotations

import contextlib
import numbers
import os
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ncfast import _validate
from ncfast.metrics.catalogue import OF_MOMENTS
from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import evaluate
from ncfast.metrics.weights import weight_norm
from ncfast.tracking import shutdown
from ncfast.tracking.capture import FeatureCapture, PoolSpec
from ncfast.tracking.header import build_header
from ncfast.tracking.hook import Hook
from ncfast.tracking.layers import Layer, uncompiled
from ncfast.tracking.loss import LossFunction, Reduction, reduction_of
from ncfast.tracking.names import Names
from ncfast.tracking.numbers import as_number, check_keys, key_is_taken
from ncfast.tracking.quick import QuickStep
from ncfast.tracking.recorder import COST, Recorder
from ncfast.tracking.reduction import LOCAL, Ranks, as_group
from ncfast.tracking.ring import MomentsRing
from ncfast.tracking.schedule import Schedule, as_schedule
from ncfast.tracking.selection import WEIGHT_NORM, choose
from ncfast.tracking.sinks import Record, Sink, as_sink, listed
from ncfast.tracking.snapshot import Batches, Snapshot
from ncfast.tracking.stream import parse as parse_stream
from ncfast.tracking.tapped import capture_of, release
from ncfast.tracking.whole import whole

_CUDA = torch.backends.cuda.is_built()  # without, no graph is ever captured


class Tracker:
    """Computes collapse metrics at scheduled steps and writes them to sinks.

    A record is one flat dict a log point, ``{"step": 100, "train/rnc1.max": ..., ...}``; keys are
    ``split/metric id``, with the layer between when several are tracked. Records are evaluated and
    written in blocks, at the latest a second after they were made; `flush`, `close`, the end of the
    process, an exception in a ``with`` block and SIGTERM write what is left. `step` does not
    synchronise with an accelerator. Nothing here touches a random stream: weights are bitwise the
    same with and without a tracker. What goes wrong with captured features or with a sink is said
    once, as a warning, and training goes on.

    Args:
        model: the network, for captured features, snapshots and weight.norm; None when features
            are passed to every `step`. A compiled model, or a `Tapped` one, is fine.
        layers: what to capture: names ("block3": its output, "head:input": its input), patterns
            ("blocks.*"), compiled regular expressions, types of modules, or a list of these; None
            for the input of the last nn.Linear.
        pool: how the output of a layer becomes features (N, D): "flatten", "gap" (global average),
            "cls", "last" (token), a function of what the layer returns, or a dict by layer.
        num_classes: K.
        every: an interval in steps, or a callable from the step to a bool
            (`ncfast.tracking.schedule`).
        metrics: ids, families or tiers of the metrics that need the class moments alone (see
            `ncfast.describe`), "weight.norm", or "all" for the core set of eight and weight.norm
            where there is a model.
        stream: what `step` measures: "batch", each batch alone; "window:100", the last 100
            batches; "ema:0.99", an exponential average; see `ncfast.tracking.stream`.
        sinks: paths (.jsonl, .csv, .parquet), "tensorboard:DIR", "wandb:PROJECT",
            "mlflow:EXPERIMENT", "trackio:PROJECT", callables that take a record, or objects with
            ``write`` and ``close``; see `ncfast.tracking.sinks`. Each is called from a thread of
            its own, with the context variables of the thread that makes the tracker.
        group: "auto" or a process group merges what the ranks measured; every rank makes the same
            calls. Where one does not, or is lost, each measures alone from then on: a warning, at
            `flush` and `close` an error, and "tracker/local" in the records say so. None: each rank
            measures its own batches.
        start_step: the step of the state the model is in now, 0 before training.
        flush_seconds: how old a record may grow before it is written, at the next step.
        sink_timeout: seconds that a call of a sink may take before it is given up.
        on_sink_error: "warn", once, and go on without the sink; or "raise" at the next block.
        on_sigterm: write what is left on SIGTERM, then do what would have happened without.
        log_cost: put "tracker/seconds", the time spent in here, into the last record of a block.

    Raises:
        ValueError: unknown layers, pooling, metrics or stream, or a bad number of classes or
            seconds.
        TypeError: a number is none.
        OSError: a sink's file cannot be opened.

    Example:
        >>> import torch, ncfast
        >>> records = []
        >>> with ncfast.Tracker(num_classes=2, sinks=[records.append]) as tracker:
        ...     for _ in range(3):
        ...         tracker.step(feats=torch.randn(16, 4), labels=torch.arange(16) % 2)
        >>> [record["step"] for record in records], "train/rnc1.max" in records[0]
        ([1, 2, 3], True)
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        layers: Layer | Sequence[Layer] | None = None,
        pool: PoolSpec | Mapping[str, PoolSpec] = None,
        num_classes: int,
        every: int | Schedule = 1,
        metrics: str | Sequence[str] = "all",
        stream: str = "batch",
        sinks: Iterable[Sink | str | os.PathLike[str] | Callable[[Record], object]] = (),
        group: Any = None,
        start_step: int = 0,
        flush_seconds: float = 1.0,
        sink_timeout: float = 30.0,
        on_sink_error: Literal["warn", "raise"] = "warn",
        on_sigterm: bool = True,
        log_cost: bool = True,
    ) -> None:
        _validate.check_num_classes(num_classes)
        _check_options(start_step, flush_seconds, sink_timeout, on_sink_error)
        self.num_classes = int(num_classes)
        self.current_step = int(start_step)
        self.metrics = choose(metrics, model is not None)
        self._stream = parse_stream(stream)
        self._schedule, self._always = as_schedule(every), every == 1
        self._due, self._next_due = self._schedule(start_step), self._schedule(start_step + 1)
        self._quick: QuickStep | None = None
        reduces, group = as_group(group)
        self._ranks = Ranks(group) if reduces else None
        self._model = None if model is None else uncompiled(model)
        self._normed = self._model if WEIGHT_NORM in self.metrics else None
        self._said: set[str] = set()
        self._capture: FeatureCapture | None = None
        with contextlib.ExitStack() as undo:  # a constructor that fails leaves nothing behind
            if self._model is not None:
                self._capture = capture_of(self._model, layers, pool)
                undo.callback(release, self._capture)
            self._recorder = Recorder(
                [id_ for id_ in self.metrics if id_ in OF_MOMENTS],
                self.num_classes,
                self._stream,
                sinks=_opened(sinks, undo),
                header=build_header(
                    metrics=self.metrics,
                    stream=self._stream,
                    num_classes=self.num_classes,
                    layers=self._layers,
                ),
                flush_seconds=flush_seconds,
                sink_timeout=sink_timeout,
                on_sink_error=on_sink_error,
                log_cost=log_cost,
                ranks=self._ranks,
                start_step=start_step,
            )
            self._names = Names(len(self._layers) > 1)
            undo.pop_all()
        self._plan_next()
        self._finish = weakref.finalize(self, _finish, self._recorder, self._capture)
        self._join_others()
        if on_sigterm:
            shutdown.watch(self._recorder)

    def _join_others(self) -> None:
        """Write what earlier trackers of the model hold: a notebook may keep them for ever."""
        for other in list(_open):
            if other._model is self._model is not None and other._ranks is None:
                other.flush()
        _open.add(self)

    def __repr__(self) -> str:
        state = "" if self._finish.alive else ", closed"
        layers = f", layers={list(self._layers)}" if self._layers else ""
        sinks = f", sinks=[{', '.join(self._recorder.sinks)}]"
        return f"<Tracker at step {self.current_step}{layers}{sinks}{state}>"

    @property
    def _layers(self) -> tuple[str, ...]:
        return () if self._capture is None else self._capture.names

    @property
    def due(self) -> bool:
        """Whether the current step is a log point."""
        return self._due

    def step(
        self, *, labels: Tensor | None, feats: Tensor | None = None, split: str = "train"
    ) -> None:
        """Advance by one training step; measure its batch when the schedule says so.

        Call it after the optimiser's step.

        Args:
            labels: (N,) integer class indices of the batch; without them (None) nothing is
                measured, which is said once.
            feats: (N, D) features of the batch; None takes those captured in its forward pass.
            split: the first part of the keys.

        Raises:
            RuntimeError: no features were passed and there is no model to capture them from.
            ValueError, TypeError: ``feats`` or ``labels`` that `ncfast.class_moments` refuses.
        """
        begin = time.perf_counter()
        recorder, quick, number = self._recorder, self._quick, self.current_step + 1
        if (
            quick is None
            or not self._next_due
            or (_CUDA and _capturing())
            or begin >= recorder.deadline
            or number > recorder.until
        ):
            self._step(labels, feats, split)
            return
        with recorder.lock:
            # counted first: an exception after the batch is in must not give its step to another
            self.current_step = number
            if not quick(number, labels, feats, split):
                self.current_step = number - 1
                self._step(labels, feats, split)
                return
            self._due = True
            if recorder.point is not None:
                recorder.close_point()
            if not self._always:
                self._plan_next()
            recorder.seconds += time.perf_counter() - begin

    @whole
    def _step(self, labels: Tensor | None, feats: Tensor | None, split: str) -> None:
        """Any step; an ordinary one shows the way to those that follow."""
        if not _capturing():  # what a graph holds is counted when it is replayed
            self._advance()
            if self._ended() or not self._due:
                return
        self._quick = None
        quick: QuickStep | None = None
        if feats is None:
            quick = self._measure_captured(labels, split)
        elif labels is None:
            self._warn_once("labels", _NO_LABELS)
        elif _validate.is_pair_without_rows(feats, labels):
            self._warn_once("rows", _NO_ROWS)
        else:
            _validate.check_pair(feats, labels)
            prefix = self._prefix(self._stream.kind, split, "")
            ring = self._recorder.push(self.current_step, prefix, feats, labels)
            quick = self._way(split, None, ring)
        if feats is not None and self._capture is not None:
            self._capture.clear()  # of the batch that was passed
        if not _capturing() and self._add_weight_norm():
            self._quick = quick

    @whole
    def advance(self, *, keep_features: bool = False) -> None:
        """Count a training step without measuring its batch.

        Args:
            keep_features: leave the features of its forward pass to the next `step`: several
                optimisers that step after one forward pass count as several steps.
        """
        self._advance()
        if not self._ended() and self._capture is not None and not keep_features:
            self._capture.clear()

    @whole
    def replayed(self) -> None:
        """Count the replay of a CUDA graph in which `step` was captured.

        Make one ordinary `step` before the capture. A captured `step` puts its results into the
        next row of the ring at every replay; this tells the host so. Inside the capture itself
        nothing is counted, and weight.norm is not measured.
        """
        self._advance()
        if self._due and not self._ended():
            self._recorder.replayed(self.current_step)

    def snapshot(
        self,
        batches: Batches,
        *,
        split: str = "test",
        loss: LossFunction | None = None,
        loss_reduction: Reduction | None = None,
    ) -> None:
        """Measure the model, as it is now, on a whole split; adds to the current step's record.

        The model runs in eval mode without gradients; every mode and random stream is restored.
        A layer whose features, or labels, cannot be measured in some batch is left out, which is
        said once.

        Args:
            batches: an iterable of (inputs, labels, ...) or of dicts with labels, such as a
                DataLoader or a list; tensors or NumPy arrays. Inputs that are a dict or a tuple are
                passed to the model by keyword or position where it takes them so. A batch without
                labels (None) or rows is left out, which is said once.
            split: the first part of the keys.
            loss: maps outputs and labels to the loss of a batch. Its mean over the samples of the
                split is recorded as ``split/loss``. ``split/accuracy`` is recorded when the outputs
                are (N, K) logits.
            loss_reduction: "mean", ``loss`` returns the mean of the batch (or a loss for each
                sample); "sum", their sum; "none", a loss for each sample. None takes the
                ``reduction`` of ``loss``, as torch's modules have it, else "mean".

        Raises:
            ValueError: there is no model or no batch, or the loss has another shape.
            TypeError: a batch is no pair, or the loss is no number.
        """
        if self._model is None or self._capture is None:
            raise ValueError(
                "Expected a Tracker with a model for snapshot. Pass one: Tracker(model, ...)."
            )
        reduction = reduction_of(loss, loss_reduction)
        if self._ended():
            return
        begin = time.perf_counter()
        snapshot = Snapshot(self._model, self._capture, self.num_classes, loss, reduction)
        try:
            snapshot.run(batches)
        finally:
            self._plan_next()
            self._recorder.seconds += time.perf_counter() - begin
        self._end_snapshot(split, snapshot)

    def _end_snapshot(self, split: str, snapshot: Snapshot) -> None:
        """Merge what the ranks have found, and add it to the current step's record."""
        if snapshot.skipped:
            self._warn_once("snapshot labels", _NO_LABELS)
        self._say_what_is_wrong(snapshot.wrong, snapshot.repeated)
        if self._ranks is not None:
            self._merge(self._ranks, snapshot, f"a snapshot of {split} at step {self.current_step}")
        if snapshot.empty and not snapshot.moments:
            raise ValueError("Expected argument `batches` to hold at least one batch but got none.")
        self._add_snapshot(split, snapshot)

    def _merge(self, ranks: Ranks, snapshot: Snapshot, call: str) -> None:
        def reduce(call: str) -> bool:
            snapshot.all_reduce(ranks, call)
            return True

        if ranks.merge(call, reduce) is None:
            self._recorder.at(self.current_step).values[LOCAL] = 1.0
            ranks.warn(stacklevel=3)

    @whole
    def log(self, values: Mapping[str, Any]) -> None:
        """Add numbers of your own to the current step's record.

        Nothing waits for an accelerator: a tensor is copied and read when the block is written. A
        key that was logged for this step before gets the new value.

        Args:
            values: real numbers by key: of Python (float, int, bool, Decimal, Fraction) or NumPy,
                or tensors and arrays of one element, on any device.

        Raises:
            TypeError: a value is no real number (a vector, an empty tensor, a complex number, text,
                None), or a key is no string. Nothing is logged then.
            ValueError: a key is "step", or one that the tracker writes itself.
        """
        check_keys(values)
        found = {key: as_number(key, value) for key, value in values.items()}
        if self._ended():
            return
        point = self._recorder.at(self.current_step)
        for key in found:
            if key in point.values or self._writes(key):
                raise key_is_taken(key)
        point.logged.update(found)

    def flush(self) -> None:
        """Write everything measured so far, and wait until it is written.

        Any thread may call it. After `close` there is nothing left to write.

        Raises:
            RanksApart: once, after everything is written, where ranks that merge their batches
                have not made the same calls or one is lost.
        """
        if self._finish.alive:
            self._send()
            begin = time.perf_counter()
            self._recorder.wait()
            self._recorder.seconds += time.perf_counter() - begin
        if self._ranks is not None:
            self._ranks.raise_error()

    @whole
    def _send(self) -> None:
        self._recorder.send(self.current_step)

    def close(self) -> None:
        """Flush, remove the hooks and close the sinks. Calling it again does nothing.

        Later steps are counted and not recorded, which is said once.

        Raises:
            RanksApart: as `flush` does, once.
        """
        self._quick = None
        try:
            if self._finish.alive:
                self._recorder.send()
                if self._ranks is not None:
                    self._recorder.send()  # nothing: so that a rank with more to send hears of it
        finally:
            self._finish()
        if self._ranks is not None:
            self._ranks.raise_error()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None:
            self.close()
        else:
            self._finish()  # meets no other rank, and hides no exception behind one of its own

    def __reduce__(self) -> Any:
        raise TypeError(
            "Expected a Tracker to stay in its process but it is copied or pickled. Keep it out of "
            "what you save or send to workers; the tracked model itself can be pickled."
        )

    def _advance(self) -> None:
        self._recorder.commit(self.current_step)
        self.current_step += 1
        self._due = self._next_due
        self._plan_next()

    def _ended(self) -> bool:
        """Whether the tracker is closed, which is said."""
        if self._finish.alive:
            return False
        self._warn_once("closed", _CLOSED)
        return True

    def _writes(self, key: str) -> bool:
        """Whether the tracker writes ``key`` at some step."""
        prefix, _, name = key.rpartition("/")
        if name in self.metrics and prefix:
            return prefix in self._names.known(self._stream.kind, self._layers)
        return key in (COST, LOCAL) or (key == WEIGHT_NORM and self._normed is not None)

    def _say_what_is_wrong(self, wrong: Mapping[str, Exception], calls: Mapping[str, int]) -> None:
        for layer, number in calls.items():
            self._warn_once(f"calls {layer}", _REPEATED.format(layer=layer, number=number))
        for layer, error in wrong.items():
            self._warn_once(f"layer {layer}", f"Layer {layer!r} is not measured: {error}")

    def _plan_next(self) -> None:
        self._next_due = self._schedule(self.current_step + 1)
        # between log points the hooks must not keep activations alive
        if self._capture is not None:
            self._capture.enabled = self._next_due

    def _way(self, split: str, hook: Hook | None, ring: MomentsRing) -> QuickStep | None:
        """A fast step for further batches of this ring."""
        if ring.quick is None:
            return None
        norms = self._recorder.norms.writer
        forget = None if self._capture is None else self._capture.clear
        least = -1 if self._capture is None else self._capture.usual(split)
        return QuickStep(split, hook, ring.quick, norms, self._normed, forget, least)

    def _measure_captured(self, labels: Tensor | None, split: str) -> QuickStep | None:
        if self._capture is None:
            raise RuntimeError(
                "Expected argument `feats`, because the Tracker has no model to capture from."
            )
        calls, other = self._capture.repeated(), self._capture.out_of_mode(split)
        found, wrong = self._capture.take()
        if labels is None:
            self._warn_once("labels", _NO_LABELS)
            return None
        quick: QuickStep | None = None
        for layer, feats in found.items():
            try:
                _validate.check_pair(feats, labels)
                prefix = self._prefix(self._stream.kind, split, layer)
                ring = self._recorder.push(self.current_step, prefix, feats, labels)
            except (TypeError, ValueError) as problem:
                wrong[layer] = problem
                continue
            if self._capture.only is not None:
                quick = self._way(split, self._capture.only, ring)
        for layer in [layer for layer in other if layer not in wrong]:
            self._warn_once(f"mode {layer}", _OTHER_MODE.format(layer=layer))
        self._say_what_is_wrong(wrong, calls)
        return quick

    @torch.no_grad()
    @whole
    def _add_snapshot(self, split: str, snapshot: Snapshot) -> None:
        plain = self._prefix("snapshot", split, "")
        values = {f"{plain}/{name}": score for name, score in snapshot.scores().items()}
        chosen = {id_: OF_MOMENTS[id_] for id_ in self.metrics if id_ in OF_MOMENTS}
        for layer, moments in snapshot.whole().items():
            prefix = self._prefix("snapshot", split, layer)
            found = evaluate(chosen, MetricInputs(moments))
            values.update({f"{prefix}/{id_}": value for id_, value in found.items()})
        point = self._recorder.at(self.current_step)
        for key in point.logged.keys() & values.keys():
            del point.logged[key]
            self._warn_once(f"key {key}", _OVERWRITTEN.format(key=key))
        point.values.update(values)
        self._add_weight_norm()

    def _add_weight_norm(self) -> bool:
        """Measure it where it is asked for; False where the extension could not."""
        if self._normed is None:
            return True
        recorder, point = self._recorder, self._recorder.point
        # the weights do not change within a step, so all splits share one value
        if point is not None and point.step == self.current_step and WEIGHT_NORM in point.values:
            return False
        if recorder.norms.push(self.current_step, self._normed):
            return True
        try:
            found = weight_norm(self._normed)
        except (TypeError, ValueError) as error:
            self._normed = None
            self._warn_once(WEIGHT_NORM, f"{WEIGHT_NORM} is not measured: {error}")
        else:
            recorder.at(self.current_step).values[WEIGHT_NORM] = found
        return False

    def _prefix(self, kind: str, split: str, layer: str) -> str:
        return self._names.prefix(kind, split, layer, self._warn_once)

    def _warn_once(self, about: str, message: str) -> None:
        if about not in self._said:
            self._said.add(about)
            warnings.warn(f"Step {self.current_step}: {message}", RuntimeWarning, stacklevel=4)


_open: weakref.WeakSet[Tracker] = weakref.WeakSet()

_NO_LABELS = (
    "A batch without labels is not measured, training goes on. Pass the class indices of the "
    "samples as labels=."
)


_NO_ROWS = "A batch without rows is not measured, training goes on."
_REPEATED = (
    "Layer {layer!r} ran {number} times since the last step; the last call is measured, with the "
    "labels of this step. To measure all calls, pass feats=. Track a layer that runs once if its "
    "calls have other labels."
)
_OTHER_MODE = (
    "Layer {layer!r} ran since the last step, but in eval mode or without gradients only, as in a "
    "validation; that call is measured, with the labels of this step. Call step() after the "
    "training pass of its batch, or pass feats=. Use another split= for batches of a validation."
)
_CLOSED = (
    "The Tracker is closed: steps are counted and nothing is recorded. Call close() after the last "
    "step, or make a new Tracker."
)
_OVERWRITTEN = (
    "The snapshot writes {key!r}, which log() had given a value; the snapshot's is kept. Log under "
    "another key."
)


def _check_options(step: object, flush: object, timeout: object, on_error: object) -> None:
    if isinstance(step, bool) or not isinstance(step, numbers.Integral):
        raise TypeError(f"Expected argument `start_step` to be an int but got {step!r}.")
    for name, seconds in (("flush_seconds", flush), ("sink_timeout", timeout)):
        if not isinstance(seconds, (int, float)):
            raise TypeError(f"Expected argument `{name}` to be a number but got {seconds!r}.")
        if not seconds >= 0:
            raise ValueError(f"Expected argument `{name}` to be zero or more but got {seconds!r}.")
    if on_error not in ("warn", "raise"):
        raise ValueError(
            f"Expected argument `on_sink_error` to be 'warn' or 'raise' but got {on_error!r}."
        )


def _opened(
    sinks: Iterable[Sink | str | os.PathLike[str] | Callable[[Record], object]],
    undo: contextlib.ExitStack,
) -> list[Sink]:
    """Sinks for what the user passed; those that are made here are closed again by ``undo``."""
    opened = []
    for given in listed(sinks):
        sink = as_sink(given)
        if sink is not given:
            undo.callback(sink.close)
        opened.append(sink)
    return opened


def _capturing() -> bool:
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _finish(recorder: Recorder, capture: FeatureCapture | None) -> None:
    """Everything that closing a tracker takes; also called when it was forgotten."""
    if capture is not None:
        release(capture)
    shutdown.unwatch(recorder)
    recorder.close()
