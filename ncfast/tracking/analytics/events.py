"""Finds the events of a run in its log (fit, generalisation, collapse) and their lags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# An event must last: its condition holds at this share of the log points up to twice its step. A
# single spike of the loss therefore neither makes nor removes an event.
LASTING_SHARE = 0.9
MIN_RISE = 0.2


@dataclass(frozen=True)
class Events:
    """The steps of the three events of a run; None if an event did not happen.

    Attributes:
        fit: training accuracy reaches the fit threshold.
        generalisation: test accuracy reaches a share of its best value.
        collapse: RNC1 (max scale, train) falls to a share of its value at the fit.
    """

    fit: int | None
    generalisation: int | None
    collapse: int | None

    @property
    def lags(self) -> dict[str, int | None]:
        """Number of steps between two events, by name; None if one did not happen."""
        pairs = {
            "fit to generalisation": (self.fit, self.generalisation),
            "fit to collapse": (self.fit, self.collapse),
            "generalisation to collapse": (self.generalisation, self.collapse),
        }
        return {
            name: None if start is None or end is None else end - start
            for name, (start, end) in pairs.items()
        }


def series(
    records: Sequence[Mapping[str, float]], key: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Steps and values of ``key`` in the records that have it."""
    found = [(record["step"], record[key]) for record in records if key in record]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.array(steps, np.int64), np.array(values, np.float64)


def first_lasting(steps: NDArray[np.int64], holds: NDArray[np.bool_]) -> int | None:
    """First step from which ``holds`` is true at 9 of 10 log points up to twice the step."""
    total = np.concatenate([[0], np.cumsum(holds)])
    ends = np.searchsorted(steps, 2 * steps, side="right")
    starts = np.arange(len(steps))
    share = (total[ends] - total[starts]) / np.maximum(ends - starts, 1)
    found = np.flatnonzero(holds & (share >= LASTING_SHARE))
    return int(steps[found[0]]) if len(found) else None


def find_events(
    records: Sequence[Mapping[str, float]],
    *,
    fit: float = 0.99,
    generalisation: float = 0.9,
    collapse: float = 0.2,
) -> Events:
    """Find the events of a run in its records.

    Args:
        records: from `ncfast.tracking.read_records`, in order of steps.
        fit: the training accuracy of a fitted run.
        generalisation: the share of its best test accuracy that a run must reach. A run whose test
            accuracy never rises by 0.2 above its first value has no such event.
        collapse: the share of its value at the fit to which RNC1 must fall.

    Returns:
        The events; their steps are log points.

    Example:
        >>> log = [{"step": s, "train/accuracy": float(s >= 10), "test/accuracy": s / 100,
        ...         "train/rnc1.max": 1 / (1 + s)} for s in range(101)]
        >>> find_events(log)
        Events(fit=10, generalisation=90, collapse=54)
    """
    steps, accuracy = series(records, "train/accuracy")
    fit_step = first_lasting(steps, accuracy >= fit)
    return Events(
        fit_step, _generalisation(records, generalisation), _collapse(records, fit_step, collapse)
    )


def _generalisation(records: Sequence[Mapping[str, float]], share: float) -> int | None:
    steps, accuracy = series(records, "test/accuracy")
    if not len(steps) or accuracy.max() < accuracy[0] + MIN_RISE:
        return None
    return first_lasting(steps, accuracy >= share * accuracy.max())


def _collapse(
    records: Sequence[Mapping[str, float]], fit_step: int | None, share: float
) -> int | None:
    steps, values = series(records, "train/rnc1.max")
    if fit_step is None or not (steps >= fit_step).any():
        return None
    level = values[steps >= fit_step][0]
    after = steps >= fit_step
    return first_lasting(steps[after], values[after] <= share * level)
