"""Keeps classifiers, values and numbers of rows left out beside the moments of a buffer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ncfast.features.classifier import Classifier
from ncfast.metrics.catalogue import CATALOGUE
from ncfast.metrics.inputs import MetricInputs, RowSums
from ncfast.metrics.metric import evaluate
from ncfast.metrics.needs import LOOKS
from ncfast.metrics.second_look import SecondLook
from ncfast.ops.scatter import SCATTER

# writes a value to the row of the batch: at the host's count, or at the device's in a CUDA graph
Put = Callable[[Tensor, Tensor], None]


class Extras:
    """Tensors with an entry for each row of a buffer.

    Args:
        capacity: the number of rows.
        device: the device of the features.
        ids: metrics that are computed at the step, from the features of its batch.
        classifier: tells shapes and dtypes of the classifiers to keep; None keeps none.

    Attributes:
        values: (capacity, len(ids)) float64; NaN in rows that are not filled.
        left_out: (capacity,) float64 rows that a mask or ``ignore_index`` left out.
        weights: (capacity, K, D) in the classifier's dtype, or None.
        biases: (capacity, K), or None.
    """

    def __init__(
        self,
        capacity: int,
        device: torch.device,
        ids: tuple[str, ...] = (),
        classifier: Classifier | None = None,
    ) -> None:
        self._metrics = {id_: CATALOGUE[id_] for id_ in ids}
        shape = (capacity, len(ids))
        self.values = torch.full(shape, torch.nan, dtype=torch.float64, device=device)
        self.left_out = torch.zeros(capacity, dtype=torch.float64, device=device)
        self._leaves_out = False
        kept = [None, None] if classifier is None else [*classifier]
        self.weights, self.biases = (
            None
            if part is None
            else torch.empty((capacity, *part.shape), dtype=part.dtype, device=device)
            for part in kept
        )

    @property
    def measures(self) -> bool:
        """Whether `measure` computes anything."""
        return bool(self._metrics)

    @property
    def keeps(self) -> bool:
        """Whether rows hold the classifier of their step."""
        return self.weights is not None

    def keep(self, put: Put, classifier: Classifier | None) -> None:
        """Copy the classifier of a step."""
        if self.weights is not None and classifier is not None:
            put(self.weights, classifier.weight)
            if self.biases is not None and classifier.bias is not None:
                put(self.biases, classifier.bias)

    @torch.no_grad()
    def measure(
        self, put: Put, inputs: MetricInputs, classifier: Classifier | None, leaves_out: bool
    ) -> None:
        """Compute the metrics of a batch.

        Args:
            put: see `Put`.
            inputs: the moments, features and labels of the batch.
            classifier: of the step, or None.
            leaves_out: whether rows may be left out; they are zero and have the label K.
        """
        if not self._metrics:
            return
        if classifier is not None:
            inputs.weight = classifier.weight.to(torch.float64)
            inputs.bias = None if classifier.bias is None else classifier.bias.to(torch.float64)
        inputs = self._without_rows_left_out(inputs) if leaves_out else inputs
        values = evaluate(self._metrics, inputs).values()
        put(self.values, torch.stack([*values]))

    def _without_rows_left_out(self, inputs: MetricInputs) -> MetricInputs:
        """Sums over the other rows in place of the features; nothing is gathered."""
        (feats, labels), means = inputs.samples, inputs.moments.means
        scatter = None
        if any("scatter" in metric.needs for metric in self._metrics.values()):
            with_none = torch.cat([means, means.new_zeros((1, means.shape[1]))])
            scatter = SCATTER.select("auto", feats)(feats, labels, with_none)
        sums = RowSums(scatter=scatter)
        inputs = replace(inputs, feats=None, labels=None, sums=sums, _results={})
        uses = frozenset[str]().union(*(metric.uses for metric in self._metrics.values()))
        look = SecondLook(inputs, uses & LOOKS)
        look.add(feats, labels, labels != inputs.moments.num_classes, None)
        return replace(inputs, sums=look.row_sums(), _results={})

    def leave_out(self, put: Put, number: Tensor) -> None:
        """Note how many rows of a batch were left out, () of any dtype."""
        self._leaves_out = True
        put(self.left_out, number)

    def merge_left_out(self, numbers: Tensor) -> None:
        """Replace the first entries of `left_out` by those of all ranks."""
        self._leaves_out = True
        self.left_out[: len(numbers)] = numbers

    def numbers_left_out(self, rows: int) -> Tensor | None:
        """(rows,) a copy of `left_out`; None if no batch is known to have left out a row."""
        return self.left_out[:rows].clone() if self._leaves_out else None

    def clear(self) -> None:
        """Forget all rows."""
        if self._metrics:
            self.values.fill_(torch.nan)
        if self._leaves_out:  # a fast step does not write it
            self.left_out.zero_()
            self._leaves_out = False
