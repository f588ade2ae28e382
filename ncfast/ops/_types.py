"""What every backend takes and returns."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class RawMoments(NamedTuple):
    """The numbers one pass yields, all on the features' device.

    A label outside ``0..K-1`` makes every floating-point entry NaN; a class without a row has
    count, mean and sum of squares zero.
    """

    counts: Tensor  # (K,) int64
    means: Tensor  # (K, D) float64
    within_ss: Tensor  # (K,) float64, sum over the class of |x - mean|^2
    norm_sum: Tensor  # () float64, sum of row norms
    norm_max: Tensor  # () float64


class MomentsFunction(Protocol):
    """``moments(feats, labels, num_classes)`` of a backend; arguments are validated already."""

    def __call__(self, feats: Tensor, labels: Tensor, num_classes: int) -> RawMoments: ...
