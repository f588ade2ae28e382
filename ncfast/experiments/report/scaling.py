"""Measures the two time scales of runs, and how they depend on weight decay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ncfast.experiments.report.runs import Run
from ncfast.tracking.analytics import Interval, PowerLaw, fit_power_law
from ncfast.tracking.analytics.events import first_lasting, series
from ncfast.tracking.analytics.seeds import student_quantile

CONFIDENCE = 0.95
LEVEL, LEVELS = 0.75, 4


@dataclass(frozen=True)
class TimeScales:
    """tau_1 and tau_2 of each run; None if the run did not reach them.

    Attributes:
        tau1: first step from which the training accuracy is at least 0.99.
        tau2: first step after tau_1 from which the training RNC1 is at most ``eps2``.
        eps2: three quarters of the smallest RNC1 at the fit among all runs.
    """

    tau1: tuple[int | None, ...]
    tau2: tuple[int | None, ...]
    eps2: float | None


def time_scales(runs: Sequence[Run]) -> TimeScales:
    """Both time scales of each run; RNC1 is the one of the max norm."""
    levels = [level for run in runs if (level := _at(run, "train/rnc1.max", run.events.fit))]
    eps2 = LEVEL * min(levels) if levels else None
    return TimeScales(
        tuple(run.events.fit for run in runs), tuple(_tau2(run, eps2) for run in runs), eps2
    )


def _at(run: Run, key: str, step: int | None) -> float | None:
    """Value at the first log point at or after ``step``; None if it is missing or not finite."""
    steps, values = series(run.records, key)
    if step is None or not (steps >= step).any():
        return None
    value = float(values[steps >= step][0])
    return value if math.isfinite(value) else None


def _tau2(run: Run, eps2: float | None) -> int | None:
    steps, values = series(run.records, "train/rnc1.max")
    if eps2 is None or run.events.fit is None:
        return None
    after = steps >= run.events.fit
    return first_lasting(steps[after], values[after] <= eps2)


def decay_law(runs: Sequence[Run], times: Sequence[int | None]) -> PowerLaw | None:
    """The power law of ``times`` in the weight decay, over runs with a positive weight decay.

    Returns:
        None if fewer than three runs have a time, or all of these have the same weight decay.
    """
    pairs = [
        (float(run.settings["weight_decay"]), float(time) if time else None)
        for run, time in zip(runs, times, strict=True)
        if run.settings["weight_decay"] > 0
    ]
    there = [decay for decay, time in pairs if time is not None]
    if len(there) < 3 or len(set(there)) < 2:
        return None
    return fit_power_law([decay for decay, _ in pairs], [time for _, time in pairs])


def laws_by_level(runs: Sequence[Run]) -> list[tuple[float, PowerLaw]]:
    """The power laws of tau_2 that exist at eps_2, and at a half, a quarter, an eighth of it."""
    top = time_scales(runs).eps2
    if top is None:
        return []
    levels = [top / 2**halvings for halvings in range(LEVELS)]
    laws = [(eps, decay_law(runs, [_tau2(run, eps) for run in runs])) for eps in levels]
    return [(eps, law) for eps, law in laws if law is not None]


def slope_text(law: PowerLaw) -> str:
    """The exponent with its interval and the number of runs, as text."""
    text = f"{law.exponent:.2f} (95 % interval {law.low:.2f} to {law.high:.2f}, {law.count} runs"
    missing = len(law.censored)
    return text + (f", {missing} more did not get there)" if missing else ")")


def balance_rate(run: Run) -> Interval | None:
    """Decay rate of the absolute balancedness gap, divided by 2 eta lambda. The theory predicts 1.

    For gradient descent with L2 on a network whose last two layers are linear, the gap is
    proportional to (1 - eta lambda)^(2 t) (Theorem 4.3). The rate is fitted to the logarithm of the
    gap until a fifth of it is left, because steps of finite size keep the gap above a floor, which
    a large lambda reaches early.

    Returns:
        None if the run has other settings, or fewer than three log points.
    """
    s = run.settings
    plain = s.get("optimizer") in ("gd", "sgd") and not s.get("momentum")
    if not plain or s.get("last_activation", True) or not s["weight_decay"]:
        return None
    steps, gaps = series(run.records, "balancedness.absolute")
    kept = np.isfinite(gaps) & (np.minimum.accumulate(gaps) >= gaps[:1] / 5)
    if kept.sum() < 3:
        return None
    fit = stats.linregress(steps[kept], np.log(gaps[kept]))
    unit = 2 * math.log1p(-s["lr"] * s["weight_decay"])
    count = int(kept.sum())
    width = student_quantile(CONFIDENCE, count - 2) * float(fit.stderr) / abs(unit)
    value = float(fit.slope / unit)
    return Interval(value, value - width, value + width, count, CONFIDENCE)


def midpoint(run: Run, key: str) -> int | None:
    """First step after the fit from which ``key`` has made half of its fall, on a log axis.

    The fall is from the value at the fit to the last value. None if it is less than a third.
    """
    start = _at(run, key, run.events.fit)
    steps, values = series(run.records, key)
    if start is None or run.events.fit is None or not values[-1] < 2 / 3 * start:
        return None
    after = steps >= run.events.fit
    level = math.sqrt(start * max(float(values[-1]), 1e-300))
    return first_lasting(steps[after], values[after] <= level)
