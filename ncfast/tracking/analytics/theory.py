"""Measures the two time scales of the theory, and fits their power law in the weight decay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ncfast.tracking.analytics.events import Records, series, settled_step
from ncfast.tracking.analytics.seeds import student_quantile


@dataclass(frozen=True)
class TimeScales:
    """The steps at which the training loss and RNC1 fall to their thresholds.

    Attributes:
        tau_1: step at which the training loss falls; None if it does not fall within the log.
        tau_2: step at which RNC1 falls; None if it does not fall within the log. tau_2 is then
            censored at ``last_step``.
        last_step: the last log point.
    """

    tau_1: int | None
    tau_2: int | None
    last_step: int

    @property
    def ratio(self) -> float | None:
        """tau_2 / tau_1, which is large if a network groks; None if one of them is None."""
        if self.tau_1 is None or self.tau_2 is None:
            return None
        return self.tau_2 / max(self.tau_1, 1)


def time_scales(
    records: Records,
    *,
    eps_1: float,
    eps_2: float,
    loss: str = "train/loss",
    rnc1: str = "train/rnc1.max",
    slack: float = 2.0,
) -> TimeScales:
    """tau_1 and tau_2 of a run (Sakamoto & Sato 2025, Theorem 4.3).

    For full-batch gradient descent with step size eta and weight decay lambda the theory gives
    tau_1 = Omega(log(1/eps_1) / eta), independent of lambda, and
    tau_2 = Omega(log(1/eps_2) / (lambda eta)).

    Args:
        records: a log, in order of steps.
        eps_1: the training loss, in its own unit, of a fitted run.
        eps_2: the RNC1 of a collapsed run.
        loss: the key of the training loss.
        rnc1: the key of RNC1.
        slack: a value may rise again to ``slack`` times its threshold without ending the event.

    Returns:
        The steps. Each is the first log point of a period that lasts to twice its step.

    Raises:
        ValueError: a key is in no record, a threshold is not positive, or ``slack`` is below 1.

    Example:
        >>> log = [{"step": s, "train/loss": 10 / (1 + s), "train/rnc1.max": 100 / (100 + s)}
        ...        for s in range(1000)]
        >>> time_scales(log, eps_1=0.1, eps_2=0.2)
        TimeScales(tau_1=99, tau_2=400, last_step=999)
    """
    if min(eps_1, eps_2) <= 0 or slack < 1:
        raise ValueError(
            "Expected positive `eps_1` and `eps_2` and a `slack` of at least 1 but got "
            f"{eps_1}, {eps_2} and {slack}."
        )
    found = []
    for key, eps in ((loss, eps_1), (rnc1, eps_2)):
        steps, values = series(records, key)
        if not len(steps):
            raise ValueError(
                f"Expected records with the key {key!r} but none has it. Log it, or name another."
            )
        found.append(settled_step(steps, values, eps, slack * eps, falling=True))
    return TimeScales(found[0], found[1], int(records[-1]["step"]))


@dataclass(frozen=True)
class PowerLaw:
    """steps = prefactor * lambda ** exponent, fitted by least squares in log-log coordinates.

    Attributes:
        exponent: the slope; the theory predicts -1 for tau_2.
        low: lower end of the exponent's confidence interval; NaN with fewer than three points.
        high: upper end of the interval; NaN with fewer than three points.
        prefactor: steps at lambda = 1.
        r_squared: share of the variance of log(steps) that the law explains; NaN without variance.
        count: number of points used.
        censored: (lambda, position) of each run that has no step.
    """

    exponent: float
    low: float
    high: float
    prefactor: float
    r_squared: float
    count: int
    censored: tuple[tuple[float, int], ...]

    def __call__(self, weight_decay: float) -> float:
        """The number of steps that the law predicts."""
        return self.prefactor * weight_decay**self.exponent


def fit_power_law(
    weight_decays: Sequence[float], steps: Sequence[float | None], *, confidence: float = 0.95
) -> PowerLaw:
    """Fit a time scale such as tau_2 against the weight decay, with one point per run.

    The interval is Student's for a slope. It assumes errors of log(steps) that are independent,
    normal and of equal variance. Runs without a step are not part of the fit; they are listed in
    ``censored``. Missing slow runs of small weight decays make the law flatter, so an exponent
    above -1 may be caused by them.

    Args:
        weight_decays: lambda of each run, positive.
        steps: the step of each run, positive; None if the event did not happen.
        confidence: nominal coverage of the interval of the exponent.

    Raises:
        ValueError: lengths differ, a number is not positive, or fewer than two different weight
            decays have a step.

    Example:
        >>> law = fit_power_law([0.3, 0.1, 0.03, 0.01], [1000, 3000, 10000, None])
        >>> round(law.exponent, 3), law.censored
        (-1.0, ((0.01, 3),))
    """
    if len(weight_decays) != len(steps):
        raise ValueError(
            "Expected as many `weight_decays` as `steps` but got "
            f"{len(weight_decays)} and {len(steps)}."
        )
    pairs = [(w, s) for w, s in zip(weight_decays, steps, strict=True) if s is not None]
    if not all(w > 0 for w in weight_decays) or not all(s > 0 for _, s in pairs):
        raise ValueError(
            f"Expected positive `weight_decays` and `steps` but got {list(weight_decays)} and "
            f"{list(steps)}. A logarithm needs them; leave out what is zero."
        )
    if len({w for w, _ in pairs}) < 2:
        raise ValueError(
            "Expected steps for at least two different weight decays but got "
            f"{len({w for w, _ in pairs})}. Train longer, or with larger weight decays."
        )
    censored = tuple(
        (float(w), i)
        for i, (w, s) in enumerate(zip(weight_decays, steps, strict=True))
        if s is None
    )
    x, y = np.log(np.array(pairs, np.float64)).T
    return _fit(x, y, confidence, censored)


def _fit(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    confidence: float,
    censored: tuple[tuple[float, int], ...],
) -> PowerLaw:
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    residual = float(np.square(dy - slope * dx).sum())
    half = math.nan
    if len(x) > 2:
        error = math.sqrt(residual / (len(x) - 2) / float(dx @ dx))
        half = student_quantile(confidence, len(x) - 2) * error
    total = float(dy @ dy)
    return PowerLaw(
        exponent=slope,
        low=slope - half,
        high=slope + half,
        prefactor=math.exp(float(y.mean()) - slope * float(x.mean())),
        r_squared=1 - residual / total if total > 0 else math.nan,
        count=len(x),
        censored=censored,
    )
