"""A frozen model on a whole split: moments, accuracy and loss."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ncfast._validate import LABEL_DTYPES
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
    """What `run` finds, merged exactly over the batches.

    Args:
        model: run in eval mode.
        capture: its features.
        num_classes: K.
        loss: of outputs and labels, or None.
        reduction: what ``loss`` does with the samples of a batch.

    Attributes:
        moments: by layer.
        wrong: layers that could not be measured, and why; a split is measured whole or not.
        repeated: layers that ran several times for a batch, and how often.
        skipped: batches without labels.
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
        self.wrong: dict[str, Exception] = {}
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
            TypeError: a batch is none, or its loss is no number.
            ValueError: the loss has another shape.
        """
        device = model_device(self._model)
        self._capture.enabled = True
        with self._capture.apart(), undisturbed(self._model):
            for batch in batches:
                inputs, labels = inputs_and_labels(batch)
                if labels is None or len(labels := as_labels(labels, device)) == 0:
                    self.skipped += 1
                    continue
                self._add(outputs_of(self._model, inputs, device), labels)

    def scores(self) -> dict[str, Tensor]:
        """Means over the split, 0-d."""
        return {name: total / self._count for name, total in self._sums.items()}

    def whole(self) -> dict[str, ClassMoments]:
        """Moments of the layers that were measured in every batch."""
        return {name: found for name, found in self.moments.items() if name not in self.wrong}

    def all_reduce(self, ranks: Ranks, call: str) -> None:
        """Merge with the snapshots of the other ranks; nothing changes where that fails."""
        for name in self.wrong.keys() & self.moments.keys():
            self.moments[name] = undefined(self.moments[name])  # on every rank
        call = f"{call} with {', '.join([*self.moments, *self._sums])}"
        merged = ranks.moments(list(self.moments.values()), call)
        count = torch.tensor(float(self._count), dtype=torch.float64)
        device = merged[0].means.device if merged else count.device
        sums = torch.stack([count.to(device), *self._sums.values()])
        total, *rest = ranks.sums(sums, f"the scores of {call}")
        self._count = int(total)
        self._sums = dict(zip(self._sums, rest, strict=True))
        self.moments = dict(zip(self.moments, merged, strict=True))

    def _add(self, outputs: Any, labels: Tensor) -> None:
        self._count += len(labels)
        self.repeated |= self._capture.repeated()
        found, wrong = self._capture.take()
        for name, feats in found.items():
            try:
                part = class_moments(feats, labels, num_classes=self._num_classes)
            except (TypeError, ValueError) as error:
                wrong[name] = error
                continue
            self.moments[name] = self.moments[name].merge(part) if name in self.moments else part
        self.wrong = wrong | self.wrong
        for name, value in self._scores(outputs, labels).items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _scores(self, outputs: Any, labels: Tensor) -> dict[str, Tensor]:
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
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluate ``model`` inside; afterwards every mode and random stream is as it was.

    Covers each submodule's training flag, and the global streams of torch (CPU and the model's
    device), NumPy and Python: a DataLoader draws from the first even when it does not shuffle.
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
