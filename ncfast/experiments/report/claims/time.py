"""Claims about time: grokking, weight decay, tau_1 and tau_2, early birds, balancedness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ncfast.experiments.report.claims.verdict import (
    CONFIRMED,
    DENIED,
    MIN_RUNS,
    OPEN,
    Verdict,
    share,
    span,
    trend,
)
from ncfast.experiments.report.runs import Run
from ncfast.experiments.report.scaling import (
    balance_rate,
    decay_law,
    midpoint,
    slope_text,
    time_scales,
)
from ncfast.tracking.analytics.events import series

GROKKING_RATIO = 2.0  # generalisation counts as late from this multiple of the step of the fit


@dataclass(frozen=True)
class _Rise:
    """Steps of fit and generalisation; the test accuracy, and the share of its rise, at the fit."""

    fit: int
    late: int
    at_fit: float
    made: float

    @property
    def grokked(self) -> bool:
        """Whether less than half of the rise was made at the fit, and generalisation came late."""
        return self.late >= GROKKING_RATIO * max(self.fit, 1) and self.made < 0.5


def _rise(run: Run) -> _Rise | None:
    steps, accuracy = series(run.records, "test/accuracy")
    fit, late = run.events.fit, run.events.generalisation
    if fit is None or late is None:
        return None
    at_fit = float(accuracy[steps <= fit][-1])
    made = (at_fit - accuracy[0]) / (accuracy.max() - accuracy[0])
    return _Rise(fit, late, at_fit, float(made))


def _grokking(runs: Sequence[Run], claim: str, wanted: bool) -> Verdict:
    rises = [rise for run in runs if (rise := _rise(run)) is not None]
    without = len(runs) - len(rises)
    if not rises:
        return share(claim, [], "This needs a fit, and a rise of the test accuracy.", without)
    return share(
        claim,
        [rise.grokked == wanted for rise in rises],
        f"Fit at step {span([r.fit for r in rises])}, with test accuracy "
        f"{span([r.at_fit for r in rises])}; generalisation at "
        f"{span([r.late for r in rises])}; ratio "
        f"{span([r.late / max(r.fit, 1) for r in rises])}.",
        without,
    )


def groks(runs: Sequence[Run]) -> Verdict:
    """Whether the network fits first and generalises much later."""
    return _grokking(
        runs,
        "It groks: at the fit the test accuracy has made less than half of its rise, and it gets "
        "to 90 % of its best at twice that step or later.",
        True,
    )


def does_not_grok(runs: Sequence[Run]) -> Verdict:
    """Whether the network does not grok."""
    return _grokking(
        runs,
        "This network does not grok: half of the rise of the test accuracy is made at the fit, or "
        "90 % of its best is reached before twice that step.",
        False,
    )


def falls_late(runs: Sequence[Run], key: str, what: str) -> Verdict:
    """Whether the fall's midpoint is nearer to the generalisation than to the fit (log axis)."""
    found = []
    for run in runs:
        middle, fit, grown = midpoint(run, key), run.events.fit, run.events.generalisation
        if middle is not None and fit and grown and grown >= GROKKING_RATIO * fit:
            found.append((fit, middle, grown))
    late = [math.log(m / f) > abs(math.log(m / g)) for f, m, g in found]
    return share(
        f"{what} falls with the rise of the test accuracy and not with the fit.",
        late,
        f"Half of the fall (on a log scale) at step {span([m for _, m, _ in found])}."
        if found
        else "This needs a generalisation at twice the step of the fit or later, and a fall by a "
        "third.",
        len(runs) - len(found),
    )


def larger_decay_is_earlier(runs: Sequence[Run]) -> Verdict | None:
    """Whether runs with larger weight decay generalise earlier."""
    return trend(
        "Larger weight decay generalises earlier.",
        "λ",
        "generalised",
        [(float(run.settings["weight_decay"]), run.events.generalisation) for run in runs],
    )


def tau1(runs: Sequence[Run]) -> Verdict | None:
    """Whether tau_1 is independent of weight decay."""
    if len({run.settings["weight_decay"] for run in runs}) < 2:
        return None
    claim = "The time of the fit, tau_1, does not depend on weight decay."
    slope = decay_law(runs, time_scales(runs).tau1)
    if slope is None:
        return Verdict(claim, OPEN, "Too few runs were fitted.")
    flat = slope.low > -0.2 and slope.high < 0.2
    outcome = CONFIRMED if flat else DENIED if slope.low > 0.1 or slope.high < -0.1 else OPEN
    return Verdict(claim, outcome, f"Slope of log tau_1 against log λ: {slope_text(slope)}.")


def tau2(runs: Sequence[Run]) -> Verdict | None:
    """Whether tau_2 is proportional to 1 / λ."""
    if len({run.settings["weight_decay"] for run in runs}) < 2:
        return None
    claim = "The time of the collapse, tau_2, goes as 1 / λ."
    scales = time_scales(runs)
    slope = decay_law(runs, scales.tau2)
    if slope is None or scales.eps2 is None:
        return Verdict(claim, OPEN, "Too few runs collapsed.")
    contains = slope.low <= -1 <= slope.high
    narrow = slope.high - slope.low <= 0.5
    outcome = DENIED if not contains else CONFIRMED if narrow else OPEN
    if slope.censored and slope.low > -1:  # the runs without a tau_2 would make the law steeper
        outcome = OPEN
    text = f"Slope of log tau_2 against log λ: {slope_text(slope)}, RNC1 under {scales.eps2:.3g}."
    if not contains:
        text += " The interval leaves out -1."
    return Verdict(claim, outcome, text)


def early_birds(runs: Sequence[Run]) -> Verdict | None:
    """Whether RNC1 has fallen by the time the test accuracy has risen."""
    left = [part for run in runs if (part := _rnc1_left(run)) is not None]
    if not left:
        return None
    early = [part > 2 / 3 for part in left]
    part = sum(early) / len(early)
    outcome = CONFIRMED if part <= 0.1 else DENIED if part >= 0.5 else OPEN
    claim = (
        "No early birds: RNC1 (train) has fallen by a third when the test accuracy has risen from "
        "a quarter of its way to 90 % of its best."
    )
    if len(runs) == 1:
        return Verdict(claim, OPEN, f"Left of RNC1 after the rise: {span(left)}.", not early[0])
    return Verdict(
        claim,
        outcome if len(early) >= MIN_RUNS else OPEN,
        f"{sum(early)} of {len(early)} runs are early birds. Left of RNC1 after the rise: "
        f"{span(left)}.",
    )


def _rnc1_left(run: Run) -> float | None:
    """RNC1 at the generalisation, divided by RNC1 when a quarter of the rise was made."""
    steps, accuracy = series(run.records, "test/accuracy")
    values = dict(zip(*(v.tolist() for v in series(run.records, "train/rnc1.max")), strict=True))
    end = run.events.generalisation
    if end is None:
        return None
    quarter = accuracy[0] + 0.25 * (accuracy.max() - accuracy[0])
    start = int(steps[accuracy >= quarter][0])
    return values[end] / values[start] if start < end else None


def balance(runs: Sequence[Run]) -> Verdict | None:
    """Whether the balancedness gap decays at the rate of the theory."""
    rates = [rate.mean for run in runs if (rate := balance_rate(run)) is not None]
    if not rates:
        return None
    return share(
        "The mechanism: the balancedness gap of the last two linear layers decays as "
        "(1 - eta lambda)^(2 t).",
        [0.9 <= rate <= 1.1 for rate in rates],
        f"Measured rate over the predicted one: {span(rates)}.",
    )
