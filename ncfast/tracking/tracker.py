"""`Tracker`: collapse metrics of a model while it trains."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ncfast import _validate
from ncfast.metrics._collect import evaluate
from ncfast.metrics._evidence import Evidence
from ncfast.metrics.registry import METRICS, OF_MOMENTS, resolve
from ncfast.metrics.weights import weight_norm
from ncfast.moments import ClassMoments, class_moments
from ncfast.tracking.capture import FeatureCapture, model_device
from ncfast.tracking.isolation import undisturbed
from ncfast.tracking.schedule import Schedule, as_schedule
from ncfast.tracking.sinks import Record, Sink, as_sink
from ncfast.tracking.transfer import HostCopy

Batches = Iterable[tuple[Tensor, Tensor]]
LossFunction = Callable[[Tensor, Tensor], Tensor]
WEIGHT_NORM = "weight.norm"


class Tracker:
    """Computes collapse metrics at scheduled steps and appends them to sinks.

    A record is one flat dict a log point, ``{"step": 100, "train/rnc1.max": ..., ...}``; keys are
    ``split/metric id``, with the layer between when several are tracked. It is written when the
    next step begins, on `flush` and on `close`. `step` does not synchronise with an accelerator:
    values travel in one asynchronous copy and are written once they have arrived. Nothing here
    touches a random stream, so weights are bitwise the same with and without a tracker.

    Args:
        model: the network, for captured features, snapshots and weight.norm; None when features
            are passed to every `step`.
        layers: what to capture: module names (their output), "name:input" (their input), or None
            for the input of the last nn.Linear.
        num_classes: K.
        every: an interval in steps, or a callable from the step to a bool
            (`ncfast.tracking.schedule`).
        metrics: ids, families or tiers of the metrics that need the class moments alone (see
            `ncfast.describe`), or "all" for the core set of eight. "all" includes weight.norm when
            there is a model.
        sinks: paths of JSONL files, callables that take a record, or objects with ``write`` and
            ``close``.
        start_step: the step of the state the model is in now, 0 before training.

    Raises:
        ValueError: unknown layers or metrics, or a bad number of classes.
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
        layers: str | Sequence[str] | None = None,
        num_classes: int,
        every: int | Schedule = 1,
        metrics: str | Sequence[str] = "all",
        sinks: Iterable[Sink | str | os.PathLike[str] | Callable[[Record], object]] = (),
        start_step: int = 0,
    ) -> None:
        _validate.check_num_classes(num_classes)
        self.num_classes = num_classes
        self.current_step = start_step
        self.metrics = _choose(metrics, model is not None)
        self._model = model
        self._schedule = as_schedule(every)
        self._capture = FeatureCapture(model, layers) if model is not None else None
        self._set_capture()
        self._open: dict[str, Tensor | float] = {}
        self._copies: deque[HostCopy] = deque()
        self._sinks = [as_sink(sink) for sink in sinks]

    @property
    def due(self) -> bool:
        """Whether the current step is a log point."""
        return self._schedule(self.current_step)

    def step(self, *, labels: Tensor, feats: Tensor | None = None, split: str = "train") -> None:
        """Advance by one training step; compute metrics of its batch when the schedule says so.

        Call it after the optimiser's step.

        Args:
            labels: (N,) integer class indices of the batch.
            feats: (N, D) features of the batch; None takes those captured in its forward pass.
            split: the first part of the keys.

        Raises:
            RuntimeError: no features were passed and none were captured; the message says why.
            ValueError, TypeError: features or labels that `ncfast.class_moments` refuses.
        """
        self.advance()
        if self.due:
            found = self._batch_features(feats)
            self._add(split, {n: self._moments(f, labels) for n, f in found.items()})

    def advance(self) -> None:
        """Count a training step without measuring its batch; the record before it is written."""
        self._commit()
        self.current_step += 1
        self._set_capture()

    @torch.no_grad()
    def snapshot(
        self,
        batches: Batches,
        *,
        split: str = "test",
        loss: LossFunction | None = None,
    ) -> None:
        """Measure the model, as it is now, on a whole split; adds to the current step's record.

        The model runs in eval mode without gradients; every mode and random stream is restored.

        Args:
            batches: an iterable of (inputs, labels), such as a DataLoader or a list.
            split: the first part of the keys.
            loss: maps outputs and labels to the sum of the losses of a batch; its mean over the
                split is recorded as ``split/loss``. ``split/accuracy`` is recorded when the outputs
                are (N, K) logits.

        Raises:
            ValueError: there is no model or no batch, or features that cannot be used.
        """
        if self._model is None or self._capture is None:
            raise ValueError(
                "Expected a Tracker with a model for snapshot. Pass one: Tracker(model, ...)."
            )
        totals: dict[str, Tensor] = {}
        moments: dict[str, ClassMoments] = {}
        count = 0
        device = model_device(self._model)
        self._capture.enabled = True
        with undisturbed(self._model):
            for inputs, labels in batches:
                inputs, labels = inputs.to(device), labels.to(device)
                outputs = self._model(inputs)
                count += len(labels)
                for name, feats in self._capture.take().items():
                    part = self._moments(feats, labels)
                    moments[name] = moments[name].merge(part) if name in moments else part
                for name, value in self._scores(outputs, labels, loss).items():
                    totals[name] = totals.get(name, 0) + value
        self._set_capture()
        if not moments:
            raise ValueError("Expected argument `batches` to hold at least one batch but got none.")
        self._open.update({f"{split}/{name}": total / count for name, total in totals.items()})
        self._add(split, moments)

    def log(self, values: Mapping[str, Tensor | float]) -> None:
        """Add numbers of your own, 0-d tensors or floats, to the current step's record."""
        self._open.update(values)

    def flush(self) -> None:
        """Write everything measured so far; waits for copies under way."""
        self._commit()
        self._drain(wait=True)

    def close(self) -> None:
        """Flush, remove the hooks and close the sinks. Calling it again does nothing."""
        try:
            self.flush()
        finally:
            if self._capture is not None:
                self._capture.remove()
            sinks, self._sinks = self._sinks, []
            for sink in sinks:
                sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _set_capture(self) -> None:
        # between log points the hooks must not keep activations alive
        if self._capture is not None:
            self._capture.enabled = self._schedule(self.current_step + 1)

    def _batch_features(self, feats: Tensor | None) -> dict[str, Tensor]:
        if feats is not None:
            return {"features": feats}
        if self._capture is None:
            raise RuntimeError(
                "Expected argument `feats`, because the Tracker has no model to capture from."
            )
        return self._capture.take()

    def _moments(self, feats: Tensor, labels: Tensor) -> ClassMoments:
        return class_moments(feats, labels, num_classes=self.num_classes)

    def _scores(
        self, outputs: Tensor, labels: Tensor, loss: LossFunction | None
    ) -> dict[str, Tensor]:
        scores: dict[str, Tensor] = {}
        if outputs.shape == (len(labels), self.num_classes):
            scores["accuracy"] = (outputs.argmax(1) == labels).sum(dtype=torch.float64)
        if loss is not None:
            scores["loss"] = loss(outputs, labels).to(torch.float64)
        return scores

    def _add(self, split: str, by_layer: Mapping[str, ClassMoments]) -> None:
        for layer, moments in by_layer.items():
            prefix = f"{split}/{layer}" if len(by_layer) > 1 else split
            values = evaluate(
                {name: OF_MOMENTS[name] for name in self.metrics if name in OF_MOMENTS},
                Evidence(moments),
            )
            self._open.update({f"{prefix}/{name}": value for name, value in values.items()})
        # the weights do not change within a step, so all splits share one value
        wanted = WEIGHT_NORM in self.metrics and WEIGHT_NORM not in self._open
        if wanted and self._model is not None:
            self._open[WEIGHT_NORM] = weight_norm(self._model)

    def _commit(self) -> None:
        """Send the current step's record on its way."""
        if self._open:
            self._copies.append(HostCopy({"step": self.current_step, **self._open}))
            self._open = {}
        self._drain(wait=False)

    def _drain(self, *, wait: bool) -> None:
        while self._copies and (wait or self._copies[0].ready()):
            record = self._copies[0].wait()
            self._copies.popleft()
            for sink in self._sinks:
                sink.write(record)


def _choose(metrics: str | Sequence[str], has_model: bool) -> tuple[str, ...]:
    of_model = (WEIGHT_NORM,) if has_model else ()
    if metrics == "all":
        return (*METRICS, *of_model)
    return resolve(metrics, (*OF_MOMENTS, *of_model))
