"""The two time scales of every run, and how they go with weight decay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ncfast.experiments.report.runs import Run
from ncfast.tracking.analytics import fit_power_law
from ncfast.tracking.timescales import first_lasting, series

CONFIDENCE = 0.95
LEVEL = 0.75


@dataclass(frozen=True)
class Slope:
    """The exponent of a power law over runs, with its interval.

    Attributes:
        value: slope of log y against log x.
        low: lower end of the 95 % interval of Student's t; high: the upper end.
        runs: number of points it was fitted to.
        censored: runs that did not get there; they are the slow ones, and would steepen the law.
    """

    value: float
    low: float
    high: float
    runs: int
    censored: int = 0

    def __str__(self) -> str:
        text = (
            f"{self.value:.2f} (95 % interval {self.low:.2f} to {self.high:.2f}, {self.runs} runs"
        )
        return text + (f", {self.censored} more did not get there)" if self.censored else ")")


@dataclass(frozen=True)
class TimeScales:
    """tau_1 and tau_2 of runs, in their order; None where a run did not get there.

    Attributes:
        tau1: first step from which the training accuracy is at least 0.99.
        tau2: first step after it from which the training RNC1 is under ``eps2``.
        eps2: three quarters of the smallest RNC1 of a run at its fit; the same for all.
    """

    tau1: tuple[int | None, ...]
    tau2: tuple[int | None, ...]
    eps2: float | None


def time_scales(runs: Sequence[Run]) -> TimeScales:
    """Both time scales, RNC1 with the max norm."""
    levels = [level for run in runs if (level := _at(run, "train/rnc1.max", run.events.fit))]
    eps2 = LEVEL * min(levels) if levels else None
    return TimeScales(
        tuple(run.events.fit for run in runs), tuple(_tau2(run, eps2) for run in runs), eps2
    )


def _at(run: Run, key: str, step: int | None) -> float | None:
    """Value at the first log point from ``step`` on."""
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


def slope_against_decay(runs: Sequence[Run], times: Sequence[int | None]) -> Slope | None:
    """Slope of log time against log lambda, over runs with a positive lambda.

    Returns:
        None with fewer than three runs that got there, or fewer than two lambdas among them.
    """
    pairs = [
        (float(run.settings["weight_decay"]), float(time) if time else None)
        for run, time in zip(runs, times, strict=True)
        if run.settings["weight_decay"] > 0
    ]
    there = [decay for decay, time in pairs if time is not None]
    if len(there) < 3 or len(set(there)) < 2:
        return None
    law = fit_power_law([decay for decay, _ in pairs], [time for _, time in pairs])
    return Slope(law.exponent, law.low, law.high, law.count, len(law.censored))


def balance_rate(run: Run) -> Slope | None:
    """Decay rate of the absolute balancedness gap over 2 eta lambda: theory says 1.

    For gradient descent with L2 on a network whose last two layers are linear the gap goes as
    (1 - eta lambda)^(2 t) (Theorem 4.3). The rate is fitted to the logarithm until a fifth is left:
    steps of finite size keep a floor under it, where a large lambda soon arrives.

    Returns:
        None for another setting, or with fewer than three log points.
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
    width = stats.t.ppf((1 + CONFIDENCE) / 2, int(kept.sum()) - 2) * fit.stderr / abs(unit)
    value = float(fit.slope / unit)
    return Slope(value, float(value - width), float(value + width), int(kept.sum()))


def midpoint(run: Run, key: str) -> int | None:
    """First step after the fit from which ``key`` is past half its way down, on a log axis.

    The way from its value at the fit to its last value; None when it falls by less than a third.
    """
    start = _at(run, key, run.events.fit)
    steps, values = series(run.records, key)
    if start is None or run.events.fit is None or not values[-1] < 2 / 3 * start:
        return None
    after = steps >= run.events.fit
    level = math.sqrt(start * max(float(values[-1]), 1e-300))
    return first_lasting(steps[after], values[after] <= level)
