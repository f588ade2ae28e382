"""Compares the arms of an experiment: paired within a seed, with intervals and a verdict.

The arms of a seed branch from one checkpoint (``--from``), so what they share cancels in the ratio
of an arm and its control. docs/results/cause.md uses these rules.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ncfast.experiments import run_dir
from ncfast.experiments.stored import read_numbers
from ncfast.experiments.sweep_file import runs_of
from ncfast.tracking.analytics import Interval, mean_interval
from ncfast.tracking.analytics.events import MIN_RISE, first_lasting, series

Records = Sequence[Mapping[str, float]]
Verdict = Literal["no effect", "earlier", "later", "cannot tell", "did not take"]


@dataclass(frozen=True)
class Rule:
    """When an arm counts, and how its effect is judged.

    Attributes:
        fit: training accuracy of a fitted run.
        fitted: share of the log points after the branch that must be fitted.
        down: largest ratio of a pushed quantity to the control's, for a push down.
        up: smallest ratio, for a push up.
        band: relative change that is no effect; the whole interval must be smaller.
        least: relative change that is an effect; every pair must be larger.
    """

    fit: float = 0.99
    fitted: float = 0.95
    down: float = 0.2
    up: float = 3.0
    band: float = 0.05
    least: float = 0.1


RULE = Rule()


@dataclass(frozen=True)
class Arm:
    """The logs of an arm, by seed.

    Attributes:
        name: name of the arm.
        logs: records in order of steps, by seed.
        settings: the settings of one run; those of the others differ in the seed alone.
    """

    name: str
    logs: Mapping[int, Records]
    settings: Mapping[str, Any]


class Reached(NamedTuple):
    """The step of an outcome, and whether it was reached; if not, the last step stands for it."""

    step: float
    reached: bool


@dataclass(frozen=True)
class Push:
    """The quantity that an arm moves: a key of the records, and the direction."""

    key: str
    direction: Literal["down", "up"]


@dataclass(frozen=True)
class Pair:
    """An arm and its control with the same seed.

    Attributes:
        seed: the seed.
        control: the control's outcome.
        arm: the arm's outcome.
        fitted: share of the arm's log points after the branch that are fitted.
        moved: geometric mean of the pushed quantity over the control's; None without a push.
        counts: whether the pair counts.
    """

    seed: int
    control: Reached
    arm: Reached
    fitted: float
    moved: float | None
    counts: bool

    def log_ratio(self, origin: float = 0.0) -> float:
        """Log of the arm's step over the control's, both counted from the step ``origin``.

        -inf for an arm whose outcome was there at that step, NaN for such a control.
        """
        arm, control = self.arm.step - origin, self.control.step - origin
        if control <= 0:
            return math.nan
        return math.log(arm / control) if arm > 0 else -math.inf


@dataclass(frozen=True)
class Effect:
    """The effect of an arm on the step of an outcome.

    Attributes:
        arm: name of the arm.
        pairs: the pairs, in order of seeds.
        log_ratio: mean and 95 % interval of the paired log ratios.
        verdict: by `Rule`.
    """

    arm: str
    pairs: tuple[Pair, ...]
    log_ratio: Interval
    verdict: Verdict

    @property
    def ratio(self) -> tuple[float, float, float]:
        """The arm's step over the control's: geometric mean, low and high end of the interval."""
        found = self.log_ratio
        return math.exp(found.mean), math.exp(found.low), math.exp(found.high)


def read_arm(name: str, sweep: Path) -> Arm:
    """The arm whose runs are the replicas of a sweep; a single run is an arm of one seed.

    Raises:
        RunDirectoryError: there is no run, a file is damaged, or two runs have one seed.
    """
    logs: dict[int, Records] = {}
    settings: dict[str, Any] = {}
    for run in runs_of(sweep):
        settings = run_dir.load_config(run)["settings"]
        seed = int(settings["seed"])
        if seed in logs:
            raise run_dir.RunDirectoryError(
                f"Expected {sweep} to hold one run of each seed but seed {seed} is there twice. "
                "Pass sweeps of one value each."
            )
        log = run / run_dir.METRICS_FILE
        logs[seed] = read_numbers(log) if os.path.lexists(log) else []
        if not logs[seed]:
            raise run_dir.RunDirectoryError(
                f"{run} has no record in {run_dir.METRICS_FILE} yet. Let the run end."
            )
    return Arm(name, logs, settings)


def loss_step(records: Records, level: float = 1.0) -> Reached:
    """The first lasting step at which the test loss is at most ``level``.

    It is interpolated between two log points: linear in the step and in the logarithm of the loss.
    """
    steps, loss = series(records, "test/loss")
    with np.errstate(divide="ignore"):
        return _first_below(steps, np.log(loss), math.log(level))


def accuracy_step(records: Records, share: float = 0.9) -> Reached:
    """The first lasting step at which the test accuracy is ``share`` of its best, interpolated.

    A run whose test accuracy never rises by 0.2 above its first value does not reach it.
    """
    steps, accuracy = series(records, "test/accuracy")
    if len(accuracy) and accuracy.max() < accuracy[0] + MIN_RISE:
        return Reached(float(steps[-1]), reached=False)
    best = float(accuracy.max()) if len(accuracy) else math.nan
    return _first_below(steps, -accuracy, -share * best)


def _first_below(steps: NDArray[np.int64], values: NDArray[np.float64], level: float) -> Reached:
    if not len(steps):
        raise ValueError("Expected records of the test split but got none.")
    found = first_lasting(steps, values <= level)
    if found is None:
        return Reached(float(steps[-1]), reached=False)
    index = int(np.searchsorted(steps, found))
    before = float(values[index - 1]) if index else -math.inf
    if not level < before < math.inf:  # the first log point, or a value that is not finite
        return Reached(float(found), reached=True)
    way = (before - level) / (before - float(values[index]))
    return Reached(float(steps[index - 1] + way * (found - steps[index - 1])), reached=True)


def fitted_share(records: Records, branch: float, rule: Rule = RULE) -> float:
    """Share of the log points after the step ``branch`` with a fitted training split."""
    steps, accuracy = series(records, "train/accuracy")
    after = accuracy[steps > branch]
    return float((after >= rule.fit).mean()) if len(after) else math.nan


def moved_by(records: Records, control: Records, key: str, start: float, end: float) -> float:
    """Geometric mean of a quantity over that of the control, over log points in [start, end].

    NaN without a common log point, or with a value that is not positive.
    """
    both = (series(one, key) for one in (records, control))
    tables = [dict(zip(s.tolist(), v.tolist(), strict=True)) for s, v in both]
    common = [step for step in tables[0] if step in tables[1] and start <= step <= end]
    values = np.array([[table[step] for step in common] for table in tables], np.float64)
    if not common or not (values > 0).all():
        return math.nan
    return float(np.exp(np.log(values[0] / values[1]).mean()))


def effect(
    arm: Arm,
    control: Arm,
    *,
    branch: float,
    push: Push | None = None,
    outcome: Literal["loss", "accuracy"] = "loss",
    rule: Rule = RULE,
) -> Effect:
    """The effect of an arm on the step of generalisation, over the seeds of both.

    Args:
        arm: the arm.
        control: the arm without a change.
        branch: the step t0 at which the arms part. A push is measured in the last third between it
            and the `loss_step` of the control; the fit over all log points after it.
        push: the quantity that the arm moves; None for an arm that counts by its fit alone.
        outcome: `loss_step`, or `accuracy_step`.
        rule: when an arm counts, and how it is judged.

    Returns:
        The pairs, the 95 % interval of the log ratio (Student), and the verdict: "did not take" if
        a pair does not count, "no effect" if the interval lies inside the band, "earlier" or
        "later" if every pair changes by ``rule.least`` in one direction, else "cannot tell". With
        an outcome that is not reached only "later" and "cannot tell" are possible.

    Raises:
        ValueError: the arms have no seed in common.
    """
    seeds = [seed for seed in sorted(control.logs) if seed in arm.logs]
    if not seeds:
        raise ValueError(
            f"Expected `arm` to have seeds of `control` but {arm.name!r} has {sorted(arm.logs)} "
            f"and {control.name!r} has {sorted(control.logs)}. Run both with the same seeds."
        )
    reached = loss_step if outcome == "loss" else accuracy_step
    pairs = []
    for seed in seeds:
        own, other = arm.logs[seed], control.logs[seed]
        end = loss_step(other).step
        fitted = fitted_share(own, branch, rule)
        moved = None
        if push is not None:
            moved = moved_by(own, other, push.key, branch + (end - branch) * 2 / 3, end)
        counts = fitted >= rule.fitted and _took(push, moved, rule)
        pairs.append(Pair(seed, reached(other), reached(own), fitted, moved, counts))
    interval = interval_of([pair.log_ratio() for pair in pairs])
    return Effect(arm.name, tuple(pairs), interval, _verdict(pairs, interval, rule))


def interval_of(values: Sequence[float]) -> Interval:
    """Student's 95 % interval of the mean; NaN if a value is not finite."""
    if not np.isfinite(values).all():
        return Interval(math.nan, math.nan, math.nan, len(values), 0.95)
    return mean_interval(values)


def _took(push: Push | None, moved: float | None, rule: Rule) -> bool:
    if push is None or moved is None:
        return push is None
    return moved <= rule.down if push.direction == "down" else moved >= rule.up


def _verdict(pairs: Sequence[Pair], interval: Interval, rule: Rule) -> Verdict:
    if not all(pair.counts for pair in pairs):
        return "did not take"
    if not all(pair.control.reached for pair in pairs):
        return "cannot tell"
    ratios = [pair.log_ratio() for pair in pairs]
    if min(ratios) >= math.log(1 + rule.least):
        return "later"
    if not all(pair.arm.reached for pair in pairs):
        return "cannot tell"
    if is_within(interval, rule.band):
        return "no effect"
    return "earlier" if max(ratios) <= math.log(1 - rule.least) else "cannot tell"


def is_within(interval: Interval, band: float) -> bool:
    """Whether an interval of a log ratio lies between ln(1 - band) and ln(1 + band)."""
    return math.log(1 - band) <= interval.low and interval.high <= math.log(1 + band)


def drives(down: Effect | None, up: Effect | None) -> str:
    """Whether a quantity drives generalisation, from the arms that push it down and up.

    Returns:
        "drives", "does not drive" or "cannot tell"; see docs/results/cause.md.
    """
    below = None if down is None else down.verdict
    above = None if up is None else up.verdict
    if (below, above) == ("earlier", "later"):
        return "drives"
    if below == "no effect" and above in ("no effect", "did not take", None):
        return "does not drive"
    return "cannot tell"


def decay_sum(settings: Mapping[str, Any]) -> float:
    """The sum of the weight decays of the layers of an mlp."""
    text, layers = str(settings["weight_decay_layers"]), len(settings["widths"]) + 1
    words = {"all": layers, "classifier": 1, "hidden": layers - 1}
    factors = words[text] if text in words else sum(map(float, text.split(",")))
    return float(settings["weight_decay"]) * factors


def leftover_step(records: Records, branch: int, lr: float, decay: float) -> float:
    """The step at which a test loss that only weight decay lowers is 1.

    The output of an mlp with ReLU and no biases scales with the product of its weights. Decoupled
    decay multiplies each layer by 1 - lr lambda in a step, and the loss goes with the square.

    Args:
        records: the log.
        branch: the step of the record whose test loss the law starts from.
        lr: learning rate.
        decay: sum of the weight decays of the layers; 0 gives infinity.

    Raises:
        ValueError: the log has no test loss at that step.
    """
    steps, loss = series(records, "test/loss")
    if not (steps == branch).any():
        raise ValueError(f"Expected a record with the test loss at step {branch} but got none.")
    start = float(loss[steps == branch][0])
    if start <= 1:
        return float(branch)
    return math.inf if decay == 0 else branch + math.log(start) / (2 * lr * decay)
