"""The mean over seeds and its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: mean of the values; NaN without values.
        low: lower end; NaN with fewer than two values.
        high: upper end; NaN with fewer than two values.
        count: number of values.
        confidence: nominal coverage.
    """

    mean: float
    low: float
    high: float
    count: int
    confidence: float


def mean_interval(
    values: Sequence[float],
    *,
    confidence: float = 0.95,
    method: Literal["t", "bootstrap"] = "t",
) -> Interval:
    """The mean of one value per seed, with a confidence interval.

    Args:
        values: finite numbers, one per seed.
        confidence: nominal coverage, in (0, 1).
        method: "t" is Student's interval, which is exact for normal values. "bootstrap" is the
            percentile interval of 10,000 resamples with a fixed seed. It does not assume normal
            values but is too narrow for few seeds.

    Raises:
        ValueError: a value is not finite, or ``confidence`` or ``method`` is invalid.

    Example:
        >>> interval = mean_interval([100, 120, 140])
        >>> interval.mean, round(interval.low, 1), round(interval.high, 1)
        (120.0, 70.3, 169.7)
    """
    if not 0 < confidence < 1 or method not in ("t", "bootstrap"):
        raise ValueError(
            "Expected a `confidence` in (0, 1) and a `method` of 't' or 'bootstrap' but got "
            f"{confidence} and {method!r}."
        )
    found = np.asarray(values, np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"Expected argument `values` to be finite but got {list(values)}.")
    count = len(found)
    mean = float(found.mean()) if count else math.nan
    if count < 2:
        return Interval(mean, math.nan, math.nan, count, confidence)
    if method == "bootstrap":
        picks = np.random.default_rng(0).integers(count, size=(_RESAMPLES, count))
        tail = (1 - confidence) / 2
        low, high = np.quantile(found[picks].mean(1), [tail, 1 - tail])
        return Interval(mean, float(low), float(high), count, confidence)
    half = student_quantile(confidence, count - 1) * float(found.std(ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count, confidence)


def student_quantile(confidence: float, freedom: int) -> float:
    """Half the width of Student's two-sided interval, in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + confidence) / 2))
