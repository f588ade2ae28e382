"""Finds the events of a run in its log: fit, generalisation, collapse; and early birds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Records = Sequence[Mapping[str, float]]
Thresholds = tuple[float, float]  # one begins an event, a less strict one ends it

# An event must last: its condition holds at this share of the log points up to twice its step. A
# single spike of the loss therefore neither makes nor removes an event.
LASTING_SHARE = 0.9
MIN_RISE = 0.2


@dataclass(frozen=True)
class Events:
    """The steps of the three events of a run; None if an event did not happen.

    Attributes:
        fit: the training accuracy reaches the fit threshold.
        generalisation: the test accuracy reaches a share of its best value.
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


def series(records: Records, key: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
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
    records: Records,
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
    steps, accuracy = series(records, "test/accuracy")
    rise_step = fall_step = None
    if len(steps) and accuracy.max() >= accuracy[0] + MIN_RISE:
        rise_step = first_lasting(steps, accuracy >= generalisation * accuracy.max())
    steps, rnc1 = _rnc1_from(records, fit_step)
    if len(steps):
        fall_step = first_lasting(steps, rnc1 <= collapse * rnc1[0])
    return Events(fit_step, rise_step, fall_step)


def _rnc1_from(records: Records, step: int | None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Steps and RNC1 (max scale, train) from ``step`` on; empty if it is None."""
    steps, values = series(records, "train/rnc1.max")
    kept = np.zeros(len(steps), np.bool_) if step is None else steps >= step
    return steps[kept], values[kept]


def on_periods(
    steps: ArrayLike, values: ArrayLike, enter: float, leave: float, *, falling: bool = False
) -> list[tuple[int, int | None]]:
    """Periods that begin when ``values`` reach ``enter`` and end when they pass ``leave`` again.

    Between the thresholds nothing changes (a Schmitt trigger), so noise around one threshold does
    not give many events. NaN ends a period.

    Args:
        steps: (n,) steps of the log points, ascending.
        values: (n,) values at these steps.
        enter: a period begins at ``values >= enter``, or ``<=`` if ``falling``.
        leave: a period ends at ``values < leave``, or ``>`` if ``falling``.
        falling: True if low values are the event.

    Returns:
        The first step of each period, and the first step after it or None if it lasts to the end.

    Raises:
        ValueError: ``leave`` is stricter than ``enter``, or the lengths differ.

    Example:
        >>> on_periods(range(7), [0, 0.9, 0.7, 0.9, 0.4, 0.9, 0.6], enter=0.8, leave=0.5)
        [(1, 4), (5, None)]
    """
    at = np.asarray(steps)
    sign = -1.0 if falling else 1.0
    found = sign * np.asarray(values, np.float64)
    if at.shape != found.shape or at.ndim != 1:
        raise ValueError(
            f"Expected `steps` and `values` of one length but got {at.shape} and {found.shape}."
        )
    if sign * leave > sign * enter:
        raise ValueError(
            f"Expected argument `leave` to be {'at least' if falling else 'at most'} `enter` = "
            f"{enter} but got {leave}."
        )
    on = _triggered(found >= sign * enter, ~(found >= sign * leave))
    edges = np.flatnonzero(np.diff(on, prepend=False, append=False))
    ends = [int(at[i]) if i < len(at) else None for i in edges]
    return [
        (start, end) for start, end in zip(ends[::2], ends[1::2], strict=True) if start is not None
    ]


def _triggered(begins: NDArray[np.bool_], ends: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """True from each point where ``begins`` holds until the next where ``ends`` holds."""
    decided = np.where(begins | ends, np.arange(len(begins)), -1)
    last = np.maximum.accumulate(decided) if len(decided) else decided
    return (last >= 0) & begins[last]


def settled_step(
    steps: ArrayLike, values: ArrayLike, enter: float, leave: float, *, falling: bool = False
) -> int | None:
    """First step of the first period of `on_periods` that lasts to twice its step or to the end.

    A spike of the values therefore makes no event, and a dip long after an event does not remove
    it.

    Args:
        steps: see `on_periods`.
        values: see `on_periods`.
        enter: see `on_periods`.
        leave: see `on_periods`.
        falling: see `on_periods`.

    Returns:
        The step; None if no period lasts long enough.

    Example:
        >>> settled_step([0, 10, 20, 30, 40, 50], [9, 1, 9, 1, 1, 1], 2, 4, falling=True)
        30
    """
    periods = on_periods(steps, values, enter, leave, falling=falling)
    return next((start for start, end in periods if end is None or end > 2 * start), None)


def find_transitions(
    records: Records,
    *,
    fit: Thresholds = (0.99, 0.95),
    generalisation: Thresholds = (0.9, 0.8),
    collapse: Thresholds = (0.2, 0.4),
) -> Events:
    """The events of `ncfast.tracking.find_events`, with one threshold to begin and one to end.

    Args:
        records: a log, in order of steps.
        fit: (enter, leave) for the training accuracy.
        generalisation: (enter, leave) as shares of the run's best test accuracy. A run whose test
            accuracy never rises by 0.2 above its first value has no such event.
        collapse: (enter, leave) as shares of RNC1 (max scale, train) at the fit.

    Returns:
        The events; their steps are log points.

    Example:
        >>> log = [{"step": s, "train/accuracy": float(s >= 10), "test/accuracy": s / 100,
        ...         "train/rnc1.max": 1 / (1 + s)} for s in range(101)]
        >>> find_transitions(log)
        Events(fit=10, generalisation=90, collapse=54)
    """
    fit_step = settled_step(*series(records, "train/accuracy"), *fit)
    steps, accuracy = series(records, "test/accuracy")
    rise_step = fall_step = None
    if np.isfinite(accuracy).any() and np.nanmax(accuracy) >= accuracy[0] + MIN_RISE:
        enter, leave = (share * float(np.nanmax(accuracy)) for share in generalisation)
        rise_step = settled_step(steps, accuracy, enter, leave)
    steps, rnc1 = _rnc1_from(records, fit_step)
    if len(steps):
        enter, leave = (share * float(rnc1[0]) for share in collapse)
        fall_step = settled_step(steps, rnc1, enter, leave, falling=True)
    return Events(fit_step, rise_step, fall_step)


@dataclass(frozen=True)
class EarlyBird:
    """Whether a run's test accuracy rose before its RNC1 fell.

    Attributes:
        early: True if it rose before. False if it did not, or if the run never fitted or never
            generalised.
        generalisation: the step of the rise; None if there is none.
        collapse: the step at which RNC1 fell; None if it did not fall within the log.
        rnc1_share: RNC1 at the rise divided by RNC1 at the fit; NaN if one of them is unknown.
    """

    early: bool
    generalisation: int | None
    collapse: int | None
    rnc1_share: float


def find_early_bird(records: Records, *, still: float = 0.5) -> EarlyBird:
    """Detect a run that generalises before RNC1 (max scale, train) has fallen.

    Neural collapse does not explain the rise of the test accuracy in such a run. One example is the
    digits at weight decay 0.1: test accuracy rose from 0.15 to 0.92 while RNC1 stayed near 0.17.

    Args:
        records: a log, in order of steps, with ``train/accuracy``, ``test/accuracy`` and
            ``train/rnc1.max``.
        still: the run is early if RNC1 at the rise is at least this share of its value at the fit.
            `find_transitions` finds the rise.

    Raises:
        ValueError: ``still`` is not in (0, 1].

    Example:
        >>> log = [{"step": s, "train/accuracy": 1.0, "test/accuracy": float(s >= 30),
        ...         "train/rnc1.max": 0.2 if s < 80 else 0.01} for s in range(200)]
        >>> find_early_bird(log)
        EarlyBird(early=True, generalisation=30, collapse=80, rnc1_share=1.0)
    """
    if not 0 < still <= 1:
        raise ValueError(f"Expected argument `still` to be in (0, 1] but got {still}.")
    events = find_transitions(records)
    share = float("nan")
    if events.fit is not None and events.generalisation is not None:
        _, at_fit = _rnc1_from(records, events.fit)
        _, at_rise = _rnc1_from(records, max(events.fit, events.generalisation))
        share = float(at_rise[0] / at_fit[0]) if len(at_rise) else share
    return EarlyBird(share >= still, events.generalisation, events.collapse, share)
