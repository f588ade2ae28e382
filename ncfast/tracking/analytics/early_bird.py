"""Detects runs that generalise before they collapse."""

from __future__ import annotations

from dataclasses import dataclass

from ncfast.tracking.analytics.events import series
from ncfast.tracking.analytics.hysteresis import Records, find_transitions


@dataclass(frozen=True)
class EarlyBird:
    """Whether a run's test accuracy rose before its RNC1 fell.

    Attributes:
        early: True if it rose before. False if it did not, or the run never generalised or never
            fitted.
        generalisation: step of the rise; None if there is no rise.
        collapse: step at which RNC1 fell; None if it did not fall within the log.
        rnc1_share: RNC1 at the rise divided by RNC1 at the fit; NaN if one of them is unknown.
    """

    early: bool
    generalisation: int | None
    collapse: int | None
    rnc1_share: float


def find_early_bird(records: Records, *, still: float = 0.5) -> EarlyBird:
    """Detect a run that generalises before RNC1 (max scale, train) has fallen.

    Neural collapse does not explain the rise of the test accuracy in such a run. An example are the
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
    share = _share(records, events.fit, events.generalisation)
    return EarlyBird(share >= still, events.generalisation, events.collapse, share)


def _share(records: Records, fit: int | None, rise: int | None) -> float:
    steps, values = series(records, "train/rnc1.max")
    if fit is None or rise is None or not (steps >= max(fit, rise)).any():
        return float("nan")
    at_fit = values[steps >= fit][0]
    at_rise = values[steps >= max(fit, rise)][0]
    return float(at_rise / at_fit)
