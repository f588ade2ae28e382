"""NC4: whether the classifier decides like the nearest class mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast.metrics._rules import decisions, searches_all
from ncfast.metrics.inputs import MetricInputs, given
from ncfast.metrics.metric import Metric
from ncfast.ops.decisions import comparable, compared


class Correct(NamedTuple):
    """How many samples of each class are correct, and which share of all samples."""

    by_class: Tensor  # (2, size) float64 numbers: `agreements`, `hits`
    shares: Tensor | None = None  # (2,) of both; None where nobody computed them

    @property
    def agreements(self) -> Tensor:
        """Samples that the classifier gives to the class of the nearest mean, (size,)."""
        return self.by_class.select(0, 0)

    @property
    def hits(self) -> Tensor:
        """Samples whose nearest mean is that of their own class, (size,)."""
        return self.by_class.select(0, 1)


def correct_by_class(inputs: MetricInputs, feats: Tensor, labels: Tensor, size: int) -> Correct:
    """`Correct` over some of the samples.

    Args:
        inputs: the moments of all samples, and the classifier.
        feats: (N, D) features.
        labels: (N,) their classes, any integers.
        size: length of the results, at least K. Entries behind K - 1 hold no meaning.
    """
    moments = inputs.moments
    if comparable(inputs.backend, feats, labels, moments) and searches_all(inputs):
        return Correct(*compared(feats, labels, moments, inputs.weight, inputs.bias, size))
    labels = labels.to(torch.int64).clamp(0, size - 1)  # out of range: nan_if_invalid is NaN
    nearest, chosen = decisions(inputs, feats, labels)
    # whole numbers in float64: the sum is exact in any order, so atomics stay deterministic
    correct = torch.stack([nearest == chosen, nearest == labels]).to(torch.float64)
    sums = torch.zeros((2, size), dtype=torch.float64, device=feats.device)
    return Correct(sums.scatter_add_(1, labels.expand(2, -1), correct))


def _correct(inputs: MetricInputs) -> Correct:
    if inputs.sums is not None:
        parts = (given(inputs.sums.agreements, "feats"), given(inputs.sums.hits, "feats"))
        return Correct(torch.stack(parts))
    return correct_by_class(inputs, *inputs.samples, inputs.moments.num_classes)


def agreements(inputs: MetricInputs) -> Tensor:
    """Samples of each class that the classifier gives to the class of the nearest mean, (K,)."""
    return inputs.once(_correct).agreements


def hits(inputs: MetricInputs) -> Tensor:
    """Samples of each class that are nearest to the mean of their own class, (K,)."""
    return inputs.once(_correct).hits


def by_class(inputs: MetricInputs, correct: Tensor) -> Tensor:
    """Share of correct samples of each class, (K,); NaN for absent classes."""
    return correct / inputs.moments.counts.to(torch.float64) + inputs.nan_if_invalid


def _samples(row: int) -> Callable[[MetricInputs], Tensor]:
    def function(inputs: MetricInputs) -> Tensor:
        correct = inputs.once(_correct)
        if correct.shares is not None:
            return correct.shares.select(0, row)
        return correct.by_class.select(0, row).sum() / inputs.total + inputs.nan_if_invalid

    return function


def _classes(correct: Callable[[MetricInputs], Tensor]) -> Callable[[MetricInputs], Tensor]:
    def function(inputs: MetricInputs) -> Tensor:
        shares = by_class(inputs, correct(inputs))
        present = inputs.moments.present
        return torch.where(present, shares, 0.0).sum() / inputs.number + inputs.nan_if_invalid

    return function


_FEATURES = frozenset({"moments", "revisit"})
_BOTH = _FEATURES | {"classifier"}
_DECISIONS = frozenset({"decisions"})
_SOURCE = "Papyan, Han & Donoho 2020"
_AGREE = "argmax_c <w_c, g> + b_c equals argmin_c norm(g - mu_c)"
_OWN = "argmin_c norm(g - mu_c) is the label"

METRICS = {
    "nc4.agreement": Metric(
        _samples(0),
        f"share of samples on which {_AGREE}",
        _SOURCE,
        "[0, 1]",
        "1: nearest-class-mean rule",
        tier="full",
        needs=_BOTH,
        uses=_DECISIONS,
    ),
    "nc4.agreement_class": Metric(
        _classes(agreements),
        f"mean over classes of the share of samples on which {_AGREE}",
        _SOURCE,
        "[0, 1]",
        "1: nearest-class-mean rule",
        tier="full",
        needs=_BOTH,
        uses=_DECISIONS,
    ),
    "nc4.ncc_accuracy": Metric(
        _samples(1),
        f"share of samples on which {_OWN}",
        "nearest class centre accuracy; Galanti, György & Hutter 2021",
        "[0, 1]",
        "1: separated",
        tier="full",
        needs=_FEATURES,
        uses=_DECISIONS,
    ),
    "nc4.ncc_accuracy_class": Metric(
        _classes(hits),
        f"mean over classes of the share of samples on which {_OWN}",
        "nearest class centre accuracy, every class counting the same",
        "[0, 1]",
        "1: separated",
        tier="full",
        needs=_FEATURES,
        uses=_DECISIONS,
    ),
}
