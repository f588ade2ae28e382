"""Statistics over the seeds of a setting: a mean with its confidence interval, lags of events."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ncfast.tracking.analytics.events import Events, Records, find_transitions

Event = Literal["fit", "generalisation", "collapse"]
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


@dataclass(frozen=True)
class SeedLags:
    """The lags between two events, one per run.

    Attributes:
        lags: steps from the first event to the second; negative if the second came first, None if
            one of them did not happen.
        interval: mean over the runs that have both events, and its confidence interval.
        censored: positions of the runs without a lag. The mean does not include them, so it
            describes only runs that had both events within their steps.
    """

    lags: tuple[int | None, ...]
    interval: Interval
    censored: tuple[int, ...]


def lags_over_seeds(
    runs: Sequence[Records],
    *,
    start: Event = "collapse",
    end: Event = "generalisation",
    confidence: float = 0.95,
    method: Literal["t", "bootstrap"] = "t",
    events: Callable[[Records], Events] = find_transitions,
) -> SeedLags:
    """Steps from one event to another, over runs that differ in their seed.

    The default is the lag from the fall of RNC1 to the rise of the test accuracy.

    Args:
        runs: the records of each run.
        start: the first event.
        end: the second event.
        confidence: nominal coverage of the interval.
        method: method of the interval; see `mean_interval`.
        events: finds the events of a run; `ncfast.tracking.find_events` is an alternative.

    Raises:
        ValueError: an event or an option of the interval is unknown.

    Example:
        >>> def log(rise):
        ...     return [{"step": s, "train/accuracy": 1.0, "test/accuracy": float(s >= rise),
        ...              "train/rnc1.max": 1.0 if s < 50 else 0.1} for s in range(200)]
        >>> found = lags_over_seeds([log(60), log(62), log(64), log(999)])
        >>> found.lags, found.interval.mean, found.censored
        ((10, 12, 14, None), 12.0, (3,))
    """
    for name in (start, end):
        if name not in ("fit", "generalisation", "collapse"):
            raise ValueError(
                "Expected arguments `start` and `end` to be 'fit', 'generalisation' or 'collapse' "
                f"but got {name!r}."
            )
    lags = tuple(_lag(events(records), start, end) for records in runs)
    known = [lag for lag in lags if lag is not None]
    return SeedLags(
        lags,
        mean_interval(known, confidence=confidence, method=method),
        tuple(i for i, lag in enumerate(lags) if lag is None),
    )


def _lag(events: Events, start: Event, end: Event) -> int | None:
    first, second = getattr(events, start), getattr(events, end)
    return None if first is None or second is None else second - first
