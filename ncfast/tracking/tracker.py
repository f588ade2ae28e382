"""`Tracker`: measures the collapse metrics of a model while it trains."""

from __future__ import annotations

import contextlib
import numbers
import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ncfast import _validate
from ncfast._arrays import Array
from ncfast._ranks import as_group
from ncfast.features.capture import FeatureCapture, PoolSpec
from ncfast.features.extractor import attach_hooks, release_hooks
from ncfast.features.layers import Layer
from ncfast.features.model import uncompiled
from ncfast.ops.grouping import Labels
from ncfast.tracking import messages, shutdown
from ncfast.tracking.averaging import pack_state, parse_averaging, unpack_state
from ncfast.tracking.keys import (
    COST,
    IGNORED,
    LOCAL,
    RUN,
    WEIGHT_NORM,
    KeyPrefixes,
    StepMetrics,
    build_header,
    choose_metrics,
    without_norm,
)
from ncfast.tracking.numbers import as_number, check_keys, taken_key_error
from ncfast.tracking.recorder import Recorder
from ncfast.tracking.reduction import Ranks
from ncfast.tracking.schedule import Schedule, as_schedule
from ncfast.tracking.shutdown import signal_safe
from ncfast.tracking.sinks import Record, Sink
from ncfast.tracking.sinks.registry import open_sinks
from ncfast.tracking.snapshot import Batches, LossFunction, Reduction, Snapshot, reduction_of
from ncfast.tracking.step import FastStep, FullStep, Given

_MOST_STEPS = 1 << 53  # JSON's numbers are exact up to there
_CUDA = torch.backends.cuda.is_built()  # without CUDA no graph is ever captured


class Tracker:
    """Computes collapse metrics at scheduled steps and writes them to sinks.

    A record is one flat dict for each log point, ``{"step": 100, "train/rnc1.max": ..., ...}``. Its
    keys are ``split/metric id``, with the layer in between if several layers are tracked. Records
    are evaluated and written in blocks, at most a second after they were made. `flush`, `close`,
    the end of the process, an exception in a ``with`` block and SIGTERM write the rest.

    `step` does not synchronise with an accelerator. The tracker uses no random stream: the weights
    are bitwise the same with and without it. Captured features that cannot be measured, and sinks
    that fail, give one warning each, and training goes on.

    Args:
        model: the network, for captured features, snapshots and weight.norm; None if every `step`
            gets its features. A compiled model and a `FeatureExtractor` are fine.
        layers: the layers to capture: names ("block3" for its output, "head:input" for its input),
            patterns ("blocks.*"), compiled regular expressions, types of modules, or a list of
            these; None for the input of the last nn.Linear. With [] nothing is captured: every
            `step` gets its features, and the model gives weight.norm alone.
        pool: how the output of a layer becomes features (N, D): "flatten", "gap" (global average),
            "cls" or "last" (token), a function of the layer's output, or a dict by layer.
        num_classes: K.
        every: an interval in steps, or a function from the step to a bool, see
            `ncfast.tracking.schedule`.
        metrics: "default" (eight, with weight.norm if there is a model), ids (see
            `ncfast.describe`), families, tiers, "weight.norm", a list of these, or "all": every id
            whose inputs are there. NC3 and the like use the classifier of the step: the nn.Linear
            with K rows whose input is measured, or ``weight`` of `step`. Ids that read the features
            again, such as nc1.pinv and nc4.agreement, are computed from the batch at each step.
        stream: what `step` measures: "batch", each batch alone; "window:100", the last 100
            batches; "ema:0.99", an exponential average. See `ncfast.tracking.averaging`.
        sinks: paths (.jsonl, .csv, .parquet), "tensorboard:DIR", "wandb:PROJECT",
            "mlflow:EXPERIMENT", "trackio:PROJECT", callables that take a record, or objects with
            ``write`` and ``close``; see `ncfast.tracking.sinks`. A thread for each sink calls it,
            with the context variables of the thread that makes the tracker.
        group: "auto" or a process group merges the measurements of all ranks; every rank must make
            the same calls. If one does not, or is lost, each rank measures alone from then on: a
            warning, an error of `flush` and `close`, and "tracker/local" in the records report it.
            With None each rank measures its own batches.
        start_step: the number of steps that the model has been trained for.
        ignore_index: rows with this label are left out, and counted in the record as
            "train/ignored"; None leaves out none.
        flush_seconds: the greatest age of a record; the next step then writes it.
        sink_timeout: seconds that a call of a sink may take before the tracker gives up the sink.
        on_sink_error: "warn" once and go on without the sink, or "raise" at the next block.
        on_sigterm: write the rest on SIGTERM, then call the previous handler, or end the process.
        log_cost: write "tracker/seconds", the time spent in the tracker, into the last record of a
            block.

    Raises:
        ValueError: layers, pooling, metrics or stream are unknown, or the number of classes or a
            number of seconds is out of range. Or a log that is continued was written with other
            settings; the message names them.
        TypeError: a number has the wrong type.
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
        metrics: str | Sequence[str] = "default",
        stream: str = "batch",
        sinks: Iterable[Sink | str | os.PathLike[str] | Callable[[Record], object]] = (),
        group: Any = None,
        start_step: int = 0,
        ignore_index: int | None = -100,
        flush_seconds: float = 1.0,
        sink_timeout: float = 30.0,
        on_sink_error: Literal["warn", "raise"] = "warn",
        on_sigterm: bool = True,
        log_cost: bool = True,
    ) -> None:
        num_classes = _validate.check_num_classes(num_classes)
        _check_options(start_step, flush_seconds, sink_timeout, on_sink_error)
        self.num_classes = num_classes
        self.current_step = int(start_step)
        self.metrics = choose_metrics(metrics, model is not None)
        if metrics == "all":
            messages.warn_of_all()
        averaging = parse_averaging(stream)
        self._kind, self._averaging = averaging.kind, averaging
        self._schedule, self._every_step = as_schedule(every), every == 1
        self._due, self._next_due = self._schedule(start_step), self._schedule(start_step + 1)
        reduces, group = as_group(group)
        self._ranks = Ranks(group) if reduces else None
        self._model = None if model is None else uncompiled(model)
        self._warn = messages.WarnOnce()
        ignore_index = _validate.check_ignore_index(ignore_index)
        self._names, self._ignore_index = metrics, ignore_index
        of_steps = StepMetrics.of(
            metrics, self.metrics, self.num_classes, kind=averaging.kind, merges=reduces
        )
        hooked = None if layers in ([], ()) else self._model
        if hooked is None:
            of_steps.check_all_possible()
        self._capture: FeatureCapture | None = None
        self._flush_others()  # this tracker may continue a log of theirs
        with contextlib.ExitStack() as undo:  # a constructor that fails leaves nothing behind
            if hooked is not None:
                self._capture = attach_hooks(hooked, layers, pool)
                undo.callback(release_hooks, self._capture)
            header = build_header(
                metrics=self.metrics,
                averaging=averaging,
                num_classes=self.num_classes,
                layers=self._layers,
            )
            self._recorder = Recorder(
                of_steps,
                self.num_classes,
                averaging,
                sinks=open_sinks(sinks, undo, header),
                header=header,
                flush_seconds=flush_seconds,
                sink_timeout=sink_timeout,
                on_sink_error=on_sink_error,
                log_cost=log_cost,
                ranks=self._ranks,
                start_step=start_step,
                ignore_index=ignore_index,
            )
            undo.pop_all()
        self._prefixes = KeyPrefixes(len(self._layers) > 1, self._warn)
        norm_model = self._model if WEIGHT_NORM in self.metrics else None
        self._full_step = FullStep(
            self._recorder,
            self._capture,
            self._prefixes,
            self._kind,
            self.num_classes,
            norm_model,
            self._warn,
        )
        self._fast_step: FastStep | None = None
        self._plan_next()
        self._finish = weakref.finalize(self, _finish, self._recorder, self._capture)
        _open.add(self)
        if on_sigterm:
            shutdown.watch(self._recorder)

    def _flush_others(self) -> None:
        """Flush earlier trackers of the same model, which a notebook may keep alive."""
        for other in list(_open):
            if other._model is self._model is not None and other._ranks is None:
                other.flush()

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
        self,
        *,
        labels: Labels | None,
        feats: Array | None = None,
        mask: Array | None = None,
        weight: Array | None = None,
        bias: Array | None = None,
        split: str = "train",
    ) -> None:
        """Advance by one training step; measure its batch if the schedule says so.

        Call it after the optimiser's step.

        Args:
            labels: (N,) integer class indices of the batch, a tensor or an array, or their `plan`;
                (B, T) for tokens. None measures nothing, and warns once.
            feats: (N, D) features of the batch, or (B, T, D), a tensor or an array; None takes
                those captured in its forward pass.
            mask: of the labels' shape, bool, or integer as an attention mask is; rows where it is
                zero are left out, and counted as ``split/ignored``.
            weight: (K, D) the classifier at this step, of the features that are passed or of the
                only layer; None takes the nn.Linear whose input is captured.
            bias: (K,) its bias, or None.
            split: the first part of the keys.

        Raises:
            RuntimeError: there are neither features nor layers of a model to capture them from.
            ValueError, TypeError: ``feats`` or ``labels`` that `ncfast.class_moments` refuses; a
                mask or a classifier that does not fit; a metric asked for by name needs a
                classifier, and there is none.
        """
        begin = time.perf_counter()
        recorder, fast, number = self._recorder, self._fast_step, self.current_step + 1
        if (
            fast is None
            or not self._next_due
            or mask is not None
            or weight is not None
            or bias is not None
            or (_CUDA and _capturing())
            or begin >= recorder.deadline
            or number > recorder.block_end
        ):
            self._step(feats, Given(labels, split, mask, weight, bias))
            return
        with recorder.lock:
            # counted first: after an exception no other batch may get the step of a row
            self.current_step = number
            if not fast(number, labels, feats, split):
                self.current_step = number - 1
                self._step(feats, Given(labels, split))
                return
            self._due = True
            if recorder.point is not None:
                recorder.close_point()
            if not self._every_step:
                self._plan_next()
            recorder.seconds += time.perf_counter() - begin

    @signal_safe
    def _step(self, feats: Array | None, given: Given) -> None:
        """Make a step of any kind; an ordinary one prepares the fast step for batches like it."""
        captures, fast = _capturing(), self._fast_step
        if not captures:  # steps in a CUDA graph are counted when it is replayed
            self._advance()
            if self._ended() or not self._due:
                return
            # a block that has just been sent leaves room for an ordinary batch
            if (
                fast is not None
                and given.usual
                and fast(self.current_step, given.labels, feats, given.split)
            ):
                return
        self._fast_step = None
        fast = self._full_step.measure(self.current_step, feats, given)
        if not captures and self._full_step.measure_norm(self.current_step):
            self._fast_step = fast

    @signal_safe
    def advance(self, *, keep_features: bool = False) -> None:
        """Count a training step without measuring its batch.

        Args:
            keep_features: leave the features of its forward pass to the next `step`, for several
                optimisers that step after one forward pass, which count as several steps.
        """
        self._advance()
        if not self._ended() and self._capture is not None and not keep_features:
            self._capture.clear()

    @signal_safe
    def replayed(self) -> None:
        """Count the replay of a CUDA graph in which `step` was captured.

        Make one ordinary `step` before the capture. A captured `step` writes its results to the
        next row of the buffer at every replay; this call counts the row on the host. The capture
        itself counts no step, and does not measure weight.norm.
        """
        self._advance()
        if self._due and not self._ended():
            self._recorder.buffers.replayed(self.current_step)

    def snapshot(
        self,
        batches: Batches,
        *,
        split: str = "test",
        metrics: str | Sequence[str] | None = None,
        ood: Batches | None = None,
        loss: LossFunction | None = None,
        loss_reduction: Reduction | None = None,
        memory_limit: int | str | None = "2GiB",
    ) -> None:
        """Measure the model on a whole split, and add the results to the current step's record.

        The model runs in eval mode without gradients; every mode and random stream is restored.
        Metrics such as nc4.* look at the features a second time, once the class means are known:
        the features are kept while they fit ``memory_limit``, else the model runs twice. A layer
        whose features or labels cannot be measured in some batch is left out, with one warning.

        Args:
            batches: an iterable of (inputs, labels, ...) or of dicts with labels, such as a
                DataLoader or a list, of tensors or NumPy arrays. The model gets inputs that are a
                dict or a tuple by keyword or by position if it takes them so. A batch without
                labels (None) or without rows is left out, with one warning. An "attention_mask"
                among the inputs that has the shape of the labels leaves rows out.
            split: the first part of the keys.
            metrics: as for the tracker; None takes its metrics.
            ood: batches from outside the distribution, with or without labels, for NC5.
            loss: maps outputs and labels to the loss of a batch. Its mean over the samples of the
                split becomes ``split/loss``. Outputs that are (N, K) logits give
                ``split/accuracy``.
            loss_reduction: "mean" if ``loss`` returns the mean of the batch (or a loss for each
                sample), "sum" for the sum, "none" for a loss for each sample. None takes the
                ``reduction`` of ``loss``, which torch's modules have, or else "mean".
            memory_limit: for kept features, and for each D x D matrix; bytes or text such as
                "500MiB"; None for no limit.

        Raises:
            ValueError: there is no model, layer or batch, or the loss has another shape; a metric
                asked for by name lacks an input, such as ``ood``.
            TypeError: a batch is no pair, or the loss is no number.
        """
        if self._model is None or self._capture is None:
            raise ValueError(
                "Expected a Tracker with a model, and with layers to capture, for snapshot. Pass "
                "them: Tracker(model, layers=...)."
            )
        reduction = reduction_of(loss, loss_reduction)
        names = self._names if metrics is None else metrics
        ids = choose_metrics(names, has_model=True)
        if self._ended():
            return
        begin = time.perf_counter()
        snapshot = Snapshot(
            self._model,
            self._capture,
            self.num_classes,
            loss,
            reduction,
            metrics=without_norm(names),
            ignore_index=self._ignore_index,
            memory_limit=memory_limit,
        )
        reduce = None if self._ranks is None else lambda: self._merge_snapshot(split, snapshot)
        try:
            snapshot.run(batches, ood, reduce)
        finally:
            self._plan_next()
            self._recorder.seconds += time.perf_counter() - begin
        self._record_snapshot(split, snapshot, ids)

    def _end_snapshot(self, split: str, snapshot: Snapshot) -> None:
        """Merge the snapshots of all ranks, and add the result to the current step's record."""
        self._merge_snapshot(split, snapshot)
        self._record_snapshot(split, snapshot, self.metrics)

    def _merge_snapshot(self, split: str, snapshot: Snapshot) -> None:
        step, ranks = self.current_step, self._ranks
        if ranks is not None:
            call = f"a snapshot of {split} at step {step}"
            if ranks.merge(call, lambda call: snapshot.all_reduce(ranks, call)) is None:
                self._recorder.open_point(step).values[LOCAL] = 1.0
                ranks.warn()

    def _record_snapshot(self, split: str, snapshot: Snapshot, ids: Sequence[str]) -> None:
        step = self.current_step
        if snapshot.skipped:
            self._warn(step, "snapshot labels", messages.NO_LABELS)
        self._full_step.warn_of_layers(step, snapshot.errors, snapshot.repeated)
        if snapshot.empty and not snapshot.moments:
            raise ValueError("Expected argument `batches` to hold at least one batch but got none.")
        self._add_snapshot(split, snapshot, ids)

    @signal_safe
    def _add_snapshot(self, split: str, snapshot: Snapshot, ids: Sequence[str]) -> None:
        step = self.current_step
        values = snapshot.values(
            ids, lambda layer: self._prefixes.prefix("snapshot", split, layer, step)
        )
        point = self._recorder.open_point(step)
        for key in point.logged.keys() & values.keys():
            del point.logged[key]
            self._warn(step, f"key {key}", messages.OVERWRITTEN.format(key=key))
        point.values.update(values)
        self._full_step.measure_norm(step)

    @signal_safe
    def log(self, values: Mapping[str, Any]) -> None:
        """Add numbers of your own to the current step's record.

        The call does not wait for an accelerator: a tensor is copied, and read when the block is
        written. A key that was logged for this step before gets the new value.

        Args:
            values: real numbers by key: of Python (float, int, bool, Decimal, Fraction) or NumPy,
                or tensors and arrays of one element, on any device but "meta".

        Raises:
            TypeError: a value is no real number (a vector, an empty or meta tensor, a complex
                number, text, None), or a key is no string. Nothing is logged then.
            ValueError: a key is "step", or one that the tracker writes itself.
        """
        check_keys(values)
        found = {key: as_number(key, value) for key, value in values.items()}
        if self._ended():
            return
        point = self._recorder.open_point(self.current_step)
        for key in found:
            if key in point.values or self._writes(key):
                raise taken_key_error(key)
        point.logged.update(found)

    def flush(self) -> None:
        """Write everything measured so far, and wait until it is written.

        Any thread may call it. After `close` there is nothing left to write.

        Raises:
            RanksApart: once, after everything is written, if ranks that merge their batches have
                not made the same calls or one is lost.
        """
        if self._finish.alive:
            self._send()
            begin = time.perf_counter()
            self._recorder.wait()
            self._recorder.seconds += time.perf_counter() - begin
        if self._ranks is not None:
            self._ranks.raise_error()

    @signal_safe
    def _send(self) -> None:
        self._recorder.send(self.current_step)

    def state_dict(self) -> dict[str, Tensor]:
        """The step and the running averages, as a flat dict of tensors for a checkpoint.

        Everything measured so far is sent to the sinks first. Where ranks merge their batches, all
        of them must make this call.

        Example:
            >>> import torch, ncfast
            >>> x, y = torch.randn(16, 4), torch.arange(16) % 2
            >>> with ncfast.Tracker(num_classes=2, stream="ema:0.9") as tracker:
            ...     tracker.step(feats=x, labels=y)
            ...     state = tracker.state_dict()
            >>> with ncfast.Tracker(num_classes=2, stream="ema:0.9") as resumed:
            ...     resumed.load_state_dict(state).current_step
            1
        """
        with self._recorder.lock:
            if self._finish.alive:
                self._send()
            averages = self._recorder.buffers.averages()
            return pack_state(self.current_step, self.num_classes, self._averaging, averages)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Continue at the step and with the averages of `state_dict`; return self.

        Args:
            state: of a tracker with the same ``num_classes`` and ``stream``.

        Raises:
            ValueError: it is no such state. Nothing is loaded.
        """
        step, averages = unpack_state(state, self.num_classes, self._averaging)
        with self._recorder.lock:
            if self._finish.alive:
                self._send()
            if self._capture is not None:
                self._capture.clear()
            self._fast_step = None
            self.current_step, self._due = step, self._schedule(step)
            self._recorder.load_averages(averages, step)
            self._plan_next()
        return self

    def close(self) -> None:
        """Flush, remove the hooks and close the sinks. Calling it again does nothing.

        Later steps are counted and not recorded, with one warning.

        Raises:
            RanksApart: as `flush` does, once.
        """
        self._fast_step = None
        try:
            if self._finish.alive:
                self._recorder.send()
                if self._ranks is not None:
                    self._recorder.send()  # empty: a rank with more to send learns of the end
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
            self._finish()  # waits for no other rank, and raises nothing over the exception

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

    def _plan_next(self) -> None:
        self._next_due = self._schedule(self.current_step + 1)
        # between log points the hooks keep no activations alive
        if self._capture is not None:
            self._capture.enabled = self._next_due

    def _ended(self) -> bool:
        """Whether the tracker is closed; warns once if it is."""
        if self._finish.alive:
            return False
        self._warn(self.current_step, "closed", messages.CLOSED)
        return True

    def _writes(self, key: str) -> bool:
        """Whether the tracker itself writes ``key`` at some step."""
        prefix, _, name = key.rpartition("/")
        if prefix and (name in self.metrics or name == IGNORED):
            return prefix in self._prefixes.known(self._kind, self._layers)
        norm = key == WEIGHT_NORM and self._full_step.norm_model is not None
        return norm or key in (COST, LOCAL, RUN)

    def _warn_once(self, topic: str, message: str) -> None:
        self._warn(self.current_step, topic, message)


_open: weakref.WeakSet[Tracker] = weakref.WeakSet()


def _check_options(step: object, flush: object, timeout: object, on_error: object) -> None:
    if isinstance(step, bool) or not isinstance(step, numbers.Integral):
        raise TypeError(f"Expected argument `start_step` to be an int but got {step!r}.")
    if not 0 <= int(step) < _MOST_STEPS:
        raise ValueError(
            f"Expected argument `start_step` to be 0 or more, and below 2^53, but got {step}."
        )
    for name, seconds in (("flush_seconds", flush), ("sink_timeout", timeout)):
        if not isinstance(seconds, (int, float)):
            raise TypeError(f"Expected argument `{name}` to be a number but got {seconds!r}.")
        if not seconds >= 0:
            raise ValueError(f"Expected argument `{name}` to be zero or more but got {seconds!r}.")
    if on_error not in ("warn", "raise"):
        raise ValueError(
            f"Expected argument `on_sink_error` to be 'warn' or 'raise' but got {on_error!r}."
        )


def _capturing() -> bool:
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _finish(recorder: Recorder, capture: FeatureCapture | None) -> None:
    """Release everything when a tracker is closed or garbage-collected."""
    if capture is not None:
        release_hooks(capture)
    shutdown.unwatch(recorder)
    recorder.close()
