"""A frozen model on a whole split: moments, accuracy and loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ncfast.moments import ClassMoments, class_moments
from ncfast.tracking.capture import FeatureCapture
from ncfast.tracking.isolation import undisturbed
from ncfast.tracking.layers import model_device
from ncfast.tracking.reduction import Ranks

Batches = Iterable[tuple[Tensor, Tensor]]
LossFunction = Callable[[Tensor, Tensor], Tensor]


class Snapshot:
    """What `run` finds, merged exactly over the batches.

    Args:
        model: run in eval mode.
        capture: its features.
        num_classes: K.
        loss: sum of the losses of a batch, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        capture: FeatureCapture,
        num_classes: int,
        loss: LossFunction | None,
    ) -> None:
        self.moments: dict[str, ClassMoments] = {}
        self.skipped = 0
        self._model, self._capture = model, capture
        self._num_classes, self._loss = num_classes, loss
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def run(self, batches: Batches) -> None:
        """Measure every batch.

        Raises:
            Exception: what is wrong with the features of a layer.
        """
        device = model_device(self._model)
        self._capture.enabled = True
        with undisturbed(self._model):
            for inputs, labels in batches:
                if labels is None:
                    self.skipped += 1
                    continue
                inputs, labels = inputs.to(device), labels.to(device)
                self._add(self._model(inputs), labels)

    def scores(self) -> dict[str, Tensor]:
        """Means over the split, 0-d."""
        return {name: total / self._count for name, total in self._sums.items()}

    def all_reduce(self, ranks: Ranks, call: str) -> None:
        """Merge with the snapshots of the other ranks; nothing changes where that fails."""
        call = f"{call} with {', '.join([*self.moments, *self._sums])}"
        merged = ranks.moments(list(self.moments.values()), call)
        count = torch.tensor(float(self._count), dtype=torch.float64)
        device = merged[0].means.device if merged else count.device
        sums = torch.stack([count.to(device), *self._sums.values()])
        total, *rest = ranks.sums(sums, f"the scores of {call}")
        self._count = int(total)
        self._sums = dict(zip(self._sums, rest, strict=True))
        self.moments = dict(zip(self.moments, merged, strict=True))

    def _add(self, outputs: Tensor, labels: Tensor) -> None:
        self._count += len(labels)
        found, wrong = self._capture.take()
        for error in wrong.values():
            raise error
        for name, feats in found.items():
            part = class_moments(feats, labels, num_classes=self._num_classes)
            self.moments[name] = self.moments[name].merge(part) if name in self.moments else part
        for name, value in self._scores(outputs, labels).items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _scores(self, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        scores: dict[str, Tensor] = {}
        logits = isinstance(outputs, Tensor) and outputs.shape == (len(labels), self._num_classes)
        if logits:
            scores["accuracy"] = (outputs.argmax(1) == labels).sum(dtype=torch.float64)
        if self._loss is not None:
            scores["loss"] = self._loss(outputs, labels).to(torch.float64)
        return scores
