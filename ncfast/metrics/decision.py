"""NC4: whether the classifier decides like the nearest class mean."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ncfast.metrics._rules import decisions
from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import Metric


def agreements(inputs: MetricInputs) -> Tensor:
    """Which samples the classifier gives to the class of the nearest mean, (N,) bool."""
    nearest, chosen = inputs.once(decisions)
    return nearest == chosen


def hits(inputs: MetricInputs) -> Tensor:
    """Which samples are nearest to the mean of their own class, (N,) bool."""
    return inputs.once(decisions)[0] == inputs.samples[1].to(torch.int64)


def by_class(inputs: MetricInputs, correct: Tensor) -> Tensor:
    """Share of correct samples of each class, (K,); NaN for absent classes."""
    counts = inputs.moments.counts.to(torch.float64)
    labels = inputs.samples[1].to(torch.int64).clamp(0, len(counts) - 1)
    # whole numbers in float64: the sum is exact in any order, so atomics stay deterministic
    total = torch.zeros_like(counts).scatter_add_(0, labels, correct.to(torch.float64))
    return total / counts + inputs.nan_if_invalid


def _samples(correct: Callable[[MetricInputs], Tensor]) -> Callable[[MetricInputs], Tensor]:
    def function(inputs: MetricInputs) -> Tensor:
        return correct(inputs).sum(dtype=torch.float64) / inputs.total + inputs.nan_if_invalid

    return function


def _classes(correct: Callable[[MetricInputs], Tensor]) -> Callable[[MetricInputs], Tensor]:
    def function(inputs: MetricInputs) -> Tensor:
        shares = by_class(inputs, correct(inputs))
        present = inputs.moments.present
        return torch.where(present, shares, 0.0).sum() / inputs.number + inputs.nan_if_invalid

    return function


_FEATURES = frozenset({"moments", "revisit"})
_BOTH = _FEATURES | {"classifier"}
_SOURCE = "Papyan, Han & Donoho 2020"
_AGREE = "argmax_c <w_c, g> + b_c equals argmin_c norm(g - mu_c)"
_OWN = "argmin_c norm(g - mu_c) is the label"

METRICS = {
    "nc4.agreement": Metric(
        _samples(agreements),
        f"share of samples on which {_AGREE}",
        _SOURCE,
        "[0, 1]",
        "1: nearest-class-mean rule",
        tier="full",
        needs=_BOTH,
    ),
    "nc4.agreement_class": Metric(
        _classes(agreements),
        f"mean over classes of the share of samples on which {_AGREE}",
        _SOURCE,
        "[0, 1]",
        "1: nearest-class-mean rule",
        tier="full",
        needs=_BOTH,
    ),
    "nc4.ncc_accuracy": Metric(
        _samples(hits),
        f"share of samples on which {_OWN}",
        "nearest class centre accuracy; Galanti, György & Hutter 2021",
        "[0, 1]",
        "1: separated",
        tier="full",
        needs=_FEATURES,
    ),
    "nc4.ncc_accuracy_class": Metric(
        _classes(hits),
        f"mean over classes of the share of samples on which {_OWN}",
        "nearest class centre accuracy, every class counting the same",
        "[0, 1]",
        "1: separated",
        tier="full",
        needs=_FEATURES,
    ),
}
