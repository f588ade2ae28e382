"""Measures the lag between two events over the seeds of a setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ncfast.tracking.analytics.events import Events
from ncfast.tracking.analytics.hysteresis import Records, find_transitions
from ncfast.tracking.analytics.seeds import Interval, mean_interval

Event = Literal["fit", "generalisation", "collapse"]


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
