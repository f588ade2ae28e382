"""Finds events with hysteresis: one threshold begins an event, a less strict one ends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncfast.tracking.analytics.events import MIN_RISE, Events, series

Records = Sequence[Mapping[str, float]]
Thresholds = tuple[float, float]


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
    return Events(
        fit_step,
        _generalisation(records, generalisation),
        _collapse(records, fit_step, collapse),
    )


def _generalisation(records: Records, shares: Thresholds) -> int | None:
    steps, accuracy = series(records, "test/accuracy")
    if not np.isfinite(accuracy).any() or not np.nanmax(accuracy) >= accuracy[0] + MIN_RISE:
        return None
    enter, leave = (share * float(np.nanmax(accuracy)) for share in shares)
    return settled_step(steps, accuracy, enter, leave)


def _collapse(records: Records, fit_step: int | None, shares: Thresholds) -> int | None:
    steps, values = series(records, "train/rnc1.max")
    if fit_step is None or not (steps >= fit_step).any():
        return None
    steps, values = steps[steps >= fit_step], values[steps >= fit_step]
    enter, leave = (share * float(values[0]) for share in shares)
    return settled_step(steps, values, enter, leave, falling=True)
