"""Runs and analyses docs/results/time-scales.md: how the collapse depends on weight decay.

    python benchmarks/studies/time_scales.py run --out runs/time-scales
    python benchmarks/studies/time_scales.py analyse --out runs/time-scales

A sweep that is complete is skipped, and one that was interrupted goes on. A sweep of which one seed
is not at its last step counts as not run.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np

from ncfast.benchmarks.studies import cause
from ncfast.experiments.effects import Arm, interval_of, read_arm
from ncfast.experiments.presets import expand
from ncfast.experiments.run_dir import versions
from ncfast.experiments.sweep_config import SweepConfig
from ncfast.experiments.training.checkpoint import saved_step
from ncfast.tracking.analytics.events import find_events, first_lasting, series

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[2]
TO = ROOT / "docs" / "results" / "time-scales" / "digits.json"
SEED, SEEDS = 1010, 5
LEVEL, DEEPER, SHARE = 0.0154, 0.0077, 0.2
NEAR = 0.1
RNC1 = "train/rnc1.max"
THEORY = "theory setting"


@dataclass(frozen=True)
class Part:
    """One sweep of the five seeds: a setting and one weight decay.

    Attributes:
        setting: name of the setting in the plan.
        decay: weight decay.
        steps: last step.
        init_scale: factor on all initial parameters.
        init: see `ncfast.experiments.models.draw_parameters`.
    """

    setting: str
    decay: float
    steps: int
    init_scale: float
    init: str = "default"

    @property
    def name(self) -> str:
        """Name of the directory."""
        return f"{self.setting.replace(' ', '-')}-wd{self.decay:g}"


# in the order in which they are run
PARTS = (
    Part(THEORY, 0.5, 60_000, 1.5),
    Part(THEORY, 0.25, 110_000, 1.5),
    Part(THEORY, 1.0, 40_000, 1.5),
    Part("standard scale", 0.3, 10_000, 1.0),
    Part("standard scale", 0.1, 10_000, 1.0),
    Part("LeCun variance", 0.3, 10_000, 1.732),
    Part("LeCun variance", 0.1, 10_000, 1.732),
    Part(THEORY, 0.12, 215_000, 1.5),
    Part("orthogonal", 0.3, 12_000, 8.0, "orthogonal"),
    Part("orthogonal", 0.1, 30_000, 8.0, "orthogonal"),
    Part("LeCun normal", 0.3, 10_000, 1.0, "lecun"),
    Part("LeCun normal", 0.1, 10_000, 1.0, "lecun"),
)


def config(part: Part, out: Path) -> SweepConfig:
    """The sweep of a part: the quick form of `theory` or of `f3` with changes."""
    preset: Literal["theory", "f3"] = "theory" if part.setting == THEORY else "f3"
    base = expand(SweepConfig(out=out / part.name, preset=preset, quick=True))
    changes = {
        "weight_decay": (part.decay,),
        "init": part.init,
        "init_scale": (part.init_scale,),
        "steps": part.steps,
        "seed": SEED,
        "seeds": SEEDS,
        "schedule": "every:500" if part.setting == THEORY else "log:200",
        "probes": "log:2",
        "information": 0,
        "checkpoint_every": 5000,
        "device": "cpu",
    }
    return SweepConfig(**{**vars(base), **changes})


def tau_2(records: Sequence[Mapping[str, float]], level: float | None = None) -> float:
    """First lasting step after the fit with RNC1 at most ``level``, interpolated; NaN if none.

    Args:
        records: of a run.
        level: None: a fifth of the value at the fit.
    """
    fit = find_events(records).fit
    steps, values = series(records, RNC1)
    if fit is None:
        return math.nan
    steps, values = steps[steps >= fit], values[steps >= fit]
    level = SHARE * float(values[0]) if level is None else level
    found = first_lasting(steps, values <= level)
    if found is None:
        return math.nan
    index = int(np.searchsorted(steps, found))
    if index == 0 or not values[index - 1] > level:
        return float(found)
    logs = np.log(values[index - 1 : index + 1])
    way = (logs[0] - math.log(level)) / (logs[0] - logs[1])
    return float(steps[index - 1] + way * (found - steps[index - 1]))


def exponents(times: Mapping[float, Mapping[int, float]]) -> dict[int, float]:
    """Slope of ln(time) against ln(weight decay) for each seed; NaN if a time is missing.

    Args:
        times: by weight decay and seed.
    """
    decays = sorted(times)
    if len(decays) < 2:
        return {}
    found = {}
    for seed in times[decays[0]]:
        steps = [times[decay][seed] for decay in decays]
        there = bool(np.isfinite(steps).all())
        found[seed] = float(np.polyfit(np.log(decays), np.log(steps), 1)[0]) if there else math.nan
    return found


def local(times: Mapping[float, Mapping[int, float]], low: float, high: float) -> float:
    """Mean exponent over the seeds between two weight decays."""
    return float(np.mean(list(exponents({d: times[d] for d in (low, high)}).values())))


def law(times: Mapping[float, Mapping[int, float]], expected: float) -> dict[str, Any]:
    """The exponents with their 95 % interval over seeds, and the verdict by the plan."""
    slopes = exponents(times)
    found = interval_of(list(slopes.values())) if slopes else interval_of([math.nan])
    low, high = expected - NEAR, expected + NEAR
    verdict = "cannot tell"
    if found.low >= low and found.high <= high:
        verdict = "confirmed"
    elif found.high < low or found.low > high:
        verdict = "not confirmed"
    return {
        "steps": {f"{d:g}": list(times[d].values()) for d in sorted(times, reverse=True)},
        "exponents": list(slopes.values()),
        "mean and interval": [found.mean, found.low, found.high],
        "between neighbours": [local(times, *pair) for pair in pairwise(sorted(times))],
        "verdict": verdict,
    }


def groks(records: Sequence[Mapping[str, float]]) -> bool | None:
    """The product's rule of grokking; None if the run has no fit or no rise."""
    events = find_events(records)
    if events.fit is None or events.generalisation is None:
        return None
    steps, accuracy = series(records, "test/accuracy")
    at_fit = float(accuracy[steps >= events.fit][0])
    half = (float(accuracy[0]) + float(accuracy.max())) / 2
    return at_fit < half and events.generalisation >= 2 * events.fit


def complete(out: Path) -> dict[str, dict[float, Arm]]:
    """The arms of which every seed is at the last step, by setting and weight decay."""
    found: dict[str, dict[float, Arm]] = {}
    for part in PARTS:
        runs = list((out / part.name).glob("*/config.json"))
        if len(runs) == SEEDS and all(saved_step(run.parent) >= part.steps for run in runs):
            arm = read_arm(part.name, out / part.name)
            found.setdefault(part.setting, {})[part.decay] = arm
    return found


def each(arms: Mapping[float, Arm], measure: Any) -> dict[float, dict[int, float]]:
    """A measure of every run, by weight decay and seed."""
    return {d: {s: measure(log) for s, log in arm.logs.items()} for d, arm in arms.items()}


def analyse(out: Path) -> dict[str, Any]:
    """Every outcome of the plan."""
    settings: dict[str, Any] = {}
    for name, arms in complete(out).items():
        if name == THEORY:
            deep = {d: a for d, a in arms.items() if d < 1}
            settings[name] = {
                "tau_2": law(each(arms, lambda log: tau_2(log, LEVEL)), -1),
                "tau_2, deeper": law(each(deep, lambda log: tau_2(log, DEEPER)), -1),
            }
            continue
        fits = each(arms, lambda log: float(find_events(log).fit or math.nan))
        rises = each(arms, lambda log: float(find_events(log).generalisation or math.nan))
        told = [groks(log) for arm in arms.values() for log in arm.logs.values()]
        settings[name] = {
            "grok": [told.count(True), len(told)],
            "tau_1": law(fits, 0),
            "tau_2": law(each(arms, tau_2), -1),
            "90 % of the best": {f"{d:g}": list(v.values()) for d, v in rises.items()},
        }
    done = complete(out)
    missing = [p.name for p in PARTS if p.decay not in done.get(p.setting, {})]
    return {"versions": versions(), "not run": missing, "settings": settings}


LAWS = {"tau_1": 0, "tau_2": -1, "tau_2, deeper": -1}


def table(settings: Mapping[str, Any]) -> str:
    """The time scales as a table in Markdown, a row for each law."""
    rows = [
        "| setting | time | steps, smallest to largest of the seeds | predicted exponent | "
        "exponent (95 %) | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in settings.items():
        for time, expected in LAWS.items():
            if time not in found:
                continue
            one = found[time]
            steps = "; ".join(f"λ = {d}: {spread(of)}" for d, of in one["steps"].items())
            cells = [name, time, steps, f"{expected}", band(one["mean and interval"])]
            rows.append(f"| {' | '.join(cells)} | {one['verdict']} |")
    return "\n".join(rows).replace("-", "−").replace("−−−", "---")


def spread(steps: Sequence[float | None]) -> str:
    """The smallest and the largest step; how many are missing, if any."""
    there = [step for step in steps if step is not None and math.isfinite(step)]
    if len(there) < len(steps):
        return f"reached by {len(there)} of {len(steps)}"
    return f"{min(there):,.0f} to {max(there):,.0f}"


def band(mean: Sequence[float | None]) -> str:
    """Mean, low and high end of an interval."""
    there = [x for x in mean if x is not None and math.isfinite(x)]
    return "{:.3f} ({:.3f} to {:.3f})".format(*there) if len(there) == len(mean) else "none"


def draw(done: Mapping[str, Mapping[float, Arm]], path: Path) -> None:
    """RNC1 of every run against the weight decay times the step, a panel for each setting."""
    figure, axes = plt.subplots(
        1, len(done), figsize=(3.2 * len(done), 3.4), squeeze=False, layout="constrained"
    )
    for axis, (name, arms) in zip(axes[0], done.items(), strict=True):
        for row, (decay, arm) in enumerate(sorted(arms.items())):
            for index, log in enumerate(arm.logs.values()):
                steps, values = series(log, RNC1)
                label = f"λ = {decay:g}" if not index else None
                axis.plot(decay * steps, values, color=f"C{row}", lw=0.8, label=label)
        if name == THEORY:
            axis.axhline(LEVEL, color="0.6", lw=0.8)
        axis.set(yscale="log", title=name, xlabel="λ times step")
        axis.legend(fontsize=8)
    axes[0, 0].set_ylabel("training RNC1")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    """Parse the options; run the parts in order, or analyse those that are complete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "analyse"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--to", type=Path, default=TO, help="file of the results")
    options = parser.parse_args()
    if options.what == "run":
        for part in PARTS:
            print(part.name, file=sys.stderr, flush=True)
            if not cause.run(config(part, options.out)):
                return 1
        return 0
    found = analyse(options.out)
    options.to.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rounded(found), indent=1, allow_nan=False)
    options.to.write_text(text + "\n")
    draw(complete(options.out), options.to.with_name("rnc1.png"))
    print(table(found["settings"]))
    return 0


def rounded(found: Any) -> Any:
    """Numbers of six digits; one that is not finite becomes null, as JSON has no name for it."""
    if isinstance(found, dict):
        return {name: rounded(one) for name, one in found.items()}
    if isinstance(found, list):
        return [rounded(one) for one in found]
    if isinstance(found, float):
        return float(f"{found:.6g}") if math.isfinite(found) else None
    return found


if __name__ == "__main__":
    sys.exit(main())
