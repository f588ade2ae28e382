"""Measures a frozen model on a whole split: moments, accuracy and loss."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ncfast._validate import LABEL_DTYPES
from ncfast.metrics.catalogue import OF_MOMENTS
from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import evaluate
from ncfast.moments import ClassMoments, class_moments
from ncfast.tracking.batches import (
    LossFunction,
    Reduction,
    as_labels,
    inputs_and_labels,
    outputs_of,
    total_loss,
)
from ncfast.tracking.capture import FeatureCapture
from ncfast.tracking.layers import model_device
from ncfast.tracking.reduction import Ranks

Batches = Iterable[Any]


class Snapshot:
    """The measurements of a model on a split, merged exactly over the batches.

    Args:
        model: the model, which runs in eval mode.
        capture: the hooks that capture its features.
        num_classes: K.
        loss: a function of outputs and labels, or None.
        reduction: what ``loss`` does with the samples of a batch.

    Attributes:
        moments: the class moments by layer.
        errors: the layers that could not be measured in some batch, and why.
        repeated: the layers that ran several times for a batch, and how often.
        skipped: the number of batches without labels or rows.
    """

    def __init__(
        self,
        model: nn.Module,
        capture: FeatureCapture,
        num_classes: int,
        loss: LossFunction | None,
        reduction: Reduction = "mean",
    ) -> None:
        self.moments: dict[str, ClassMoments] = {}
        self.errors: dict[str, Exception] = {}
        self.repeated: dict[str, int] = {}
        self.skipped = 0
        self._model, self._capture = model, capture
        self._num_classes, self._loss, self._reduction = num_classes, loss, reduction
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    @property
    def empty(self) -> bool:
        """Whether there was no batch at all."""
        return not (self._count or self.skipped)

    def run(self, batches: Batches) -> None:
        """Measure every batch.

        Raises:
            TypeError: a batch has no inputs and labels, or its loss is no number.
            ValueError: the loss has another shape.
        """
        device = model_device(self._model)
        self._capture.enabled = True
        with self._capture.isolated(), evaluation_mode(self._model):
            for batch in batches:
                inputs, labels = inputs_and_labels(batch)
                if labels is None or len(labels := as_labels(labels, device)) == 0:
                    self.skipped += 1
                    continue
                self._add(outputs_of(self._model, inputs, device), labels)

    def values(self, ids: Sequence[str], prefix: Callable[[str], str]) -> dict[str, Tensor]:
        """The values for the record by key, 0-d tensors.

        Args:
            ids: the metrics to evaluate, of the layers that were measured in every batch.
            prefix: gives the first part of a layer's keys; "" asks for that of the scores.
        """
        scores = {name: total / self._count for name, total in self._sums.items()}
        found = {f"{prefix('')}/{name}": score for name, score in scores.items()}
        for layer, moments in self.moments.items():
            if layer not in self.errors:
                lead = prefix(layer)
                with torch.no_grad():
                    metrics = evaluate({i: OF_MOMENTS[i] for i in ids}, MetricInputs(moments))
                found.update({f"{lead}/{id_}": value for id_, value in metrics.items()})
        return found

    def all_reduce(self, ranks: Ranks, call: str) -> int:
        """Merge with the snapshots of the other ranks; an exception leaves this one unchanged.

        Returns:
            The number of samples over all ranks.
        """
        for name in self.errors.keys() & self.moments.keys():
            self.moments[name] = undefined(self.moments[name])  # then it is so on every rank
        call = f"{call} with {', '.join([*self.moments, *self._sums])}"
        merged = ranks.moments(list(self.moments.values()), call)
        count = torch.tensor(float(self._count), dtype=torch.float64)
        device = merged[0].means.device if merged else count.device
        sums = torch.stack([count.to(device), *self._sums.values()])
        total, *rest = ranks.sums(sums, f"the scores of {call}")
        self._count = int(total)
        self._sums = dict(zip(self._sums, rest, strict=True))
        self.moments = dict(zip(self.moments, merged, strict=True))
        return self._count

    def _add(self, outputs: Any, labels: Tensor) -> None:
        self._count += len(labels)
        self.repeated |= self._capture.repeated()
        features, errors = self._capture.take()
        for name, feats in features.items():
            try:
                part = class_moments(feats, labels, num_classes=self._num_classes)
            except (TypeError, ValueError) as error:
                errors[name] = error
                continue
            self.moments[name] = self.moments[name].merge(part) if name in self.moments else part
        self.errors = errors | self.errors
        for name, value in self._scores(outputs, labels).items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _scores(self, outputs: Any, labels: Tensor) -> dict[str, Tensor]:
        """Sums over the samples of a batch."""
        scores: dict[str, Tensor] = {}
        rows = len(labels)
        logits = isinstance(outputs, Tensor) and outputs.shape == (rows, self._num_classes)
        if logits and labels.ndim == 1 and labels.dtype in LABEL_DTYPES:
            scores["accuracy"] = (outputs.argmax(1) == labels).sum(dtype=torch.float64)
        if self._loss is not None:
            scores["loss"] = total_loss(self._loss(outputs, labels), rows, self._reduction)
        return scores


def undefined(like: ClassMoments) -> ClassMoments:
    """Moments of the same shape that make every metric NaN, also after a merge."""
    names = ("means", "within_ss", "norm_sum", "norm_max")
    nan = {name: torch.full_like(getattr(like, name), torch.nan) for name in names}
    return ClassMoments(**{"counts": like.counts + 1, **nan})


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode without gradients; restore all modes and random streams.

    The modes are the training flags of all submodules. The streams are the global ones of torch
    (CPU and the model's device), NumPy and Python: a DataLoader draws from torch's stream even when
    it does not shuffle.
    """
    modes = [(module, module.training) for module in model.modules()]
    device = model_device(model)
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    devices = [device] if device.type == "cuda" else []
    try:
        model.eval()
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
