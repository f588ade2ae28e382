"""Runs and analyses docs/results/time-scales.md: how the collapse depends on weight decay.

    python benchmarks/studies/time_scales.py run digits --out runs/time-scales
    python benchmarks/studies/time_scales.py analyse digits --out runs/time-scales

The other studies are "longer", which has longer runs on the digits, and "mnist". A sweep that is
complete is skipped, and one that was interrupted goes on. A sweep of which one seed is not at its
last step counts as not run.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np

from ncfast.benchmarks import results_file
from ncfast.benchmarks.studies import cause
from ncfast.experiments.effects import Arm, interval_of, read_arm
from ncfast.experiments.presets import expand
from ncfast.experiments.run_dir import versions
from ncfast.experiments.sweep_config import SweepConfig
from ncfast.experiments.training.checkpoint import saved_step
from ncfast.tracking.analytics.events import find_events, first_lasting, series

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

ROOT = Path(__file__).resolve().parents[2]
TO = ROOT / "docs" / "results" / "time-scales"
SEEDS, SHARE = 5, 0.2
NEAR = 0.1
RNC1 = "train/rnc1.max"
THEORY = "theory setting"


def in_theory(setting: str) -> bool:
    """Whether a setting is that of the theorem: gradient descent and a smooth activation."""
    return setting.startswith(THEORY)


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


@dataclass(frozen=True)
class Level:
    """A level of RNC1 that tau_2 is measured at.

    Attributes:
        value: None: a fifth of the value at the fit.
        below: only weight decays below this one count.
    """

    value: float | None
    below: float = math.inf

    def of(self, records: Sequence[Mapping[str, float]]) -> float:
        """`tau_2` of a run."""
        return tau_2(records, self.value)


@dataclass(frozen=True)
class Study:
    """The sweeps of a plan.

    Attributes:
        parts: the sweeps, in the order in which they are run.
        seed: the first of the five seeds.
        theory: the levels of the theory setting, by the name of the outcome.
        adamw: the levels of the other settings.
        quick: whether the sweeps have the quick form of their presets.
        changes: changes of the preset, by the name of the setting.
    """

    parts: tuple[Part, ...]
    seed: int
    theory: Mapping[str, Level]
    adamw: Mapping[str, Level]
    quick: bool = True
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def levels(self, setting: str) -> Mapping[str, Level]:
        """The levels of a setting."""
        return self.theory if in_theory(setting) else self.adamw


def images(number: int, lr: float) -> dict[str, Any]:
    """The theory setting with a few images: its first layer is as wide as there are images."""
    return {
        "train_size": (number,),
        "widths": (number, number),
        "lr": (lr,),
        "test_schedule": "every:10000",
    }


FIFTY, HUNDRED = f"{THEORY} with 50 images", f"{THEORY} with 100 images"
FIFTH, FIXED = {"tau_2": Level(None)}, {"tau_2, fixed level": Level(0.02)}
DEEPER = {"tau_2, deeper": Level(0.0077), "tau_2": Level(0.0154)}
STUDIES = {
    "digits": Study(
        parts=(
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
        ),
        seed=1010,
        theory={"tau_2": Level(0.0154), "tau_2, deeper": Level(0.0077, below=1)},
        adamw=FIFTH,
    ),
    "longer": Study(
        parts=(
            Part("LeCun normal", 0.3, 10_000, 1.0, "lecun"),
            Part("LeCun normal", 0.1, 25_000, 1.0, "lecun"),
            Part("LeCun variance", 0.3, 10_000, 1.732),
            Part("LeCun variance", 0.1, 25_000, 1.732),
            Part("orthogonal", 0.3, 30_000, 8.0, "orthogonal"),
            Part("orthogonal", 0.1, 60_000, 8.0, "orthogonal"),
            Part(THEORY, 0.5, 60_000, 1.5),
            Part(THEORY, 0.25, 120_000, 1.5),
            Part(THEORY, 0.12, 260_000, 1.5),
        ),
        seed=1020,
        theory=DEEPER,
        adamw=FIFTH | FIXED,
    ),
    "mnist": Study(
        parts=(
            Part(FIFTY, 1.0, 25_000, 1.5),
            Part(FIFTY, 0.5, 45_000, 1.5),
            Part(FIFTY, 0.25, 90_000, 1.5),
            Part(FIFTY, 0.12, 185_000, 1.5),
            Part(HUNDRED, 1.0, 60_000, 1.5),
            Part(HUNDRED, 0.5, 115_000, 1.5),
            Part(HUNDRED, 0.25, 230_000, 1.5),
            Part("standard scale", 0.3, 8000, 1.0),
            Part("standard scale", 0.1, 12_000, 1.0),
            Part("LeCun variance", 0.3, 8000, 1.732),
            Part("LeCun variance", 0.1, 20_000, 1.732),
            Part("LeCun normal", 0.3, 8000, 1.0, "lecun"),
            Part("LeCun normal", 0.1, 20_000, 1.0, "lecun"),
            Part("orthogonal", 0.3, 30_000, 8.0, "orthogonal"),
            Part("orthogonal", 0.1, 60_000, 8.0, "orthogonal"),
        ),
        seed=1020,
        theory=DEEPER,
        adamw=FIFTH | FIXED,
        quick=False,
        changes={FIFTY: images(50, 1e-4), HUNDRED: images(100, 5e-5)},
    ),
}


def config(study: str, part: Part, out: Path, data_dir: Path | None = None) -> SweepConfig:
    """The sweep of a part: a form of `theory` or of `f3` with changes."""
    chosen = STUDIES[study]
    theory = in_theory(part.setting)
    preset: Literal["theory", "f3"] = "theory" if theory else "f3"
    folder = out / study / part.name
    base = expand(SweepConfig(out=folder, preset=preset, quick=chosen.quick))
    changes = {
        "data_dir": data_dir,
        "weight_decay": (part.decay,),
        "init": part.init,
        "init_scale": (part.init_scale,),
        "steps": part.steps,
        "seed": chosen.seed,
        "seeds": SEEDS,
        "schedule": "every:500" if theory else "log:200",
        "probes": "log:2",
        "information": 0,
        "checkpoint_every": 5000,
        "device": "cpu",
        **chosen.changes.get(part.setting, {}),
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


def complete(study: str, out: Path) -> dict[str, dict[float, Arm]]:
    """The arms of which every seed is at the last step, by setting and weight decay."""
    found: dict[str, dict[float, Arm]] = {}
    for part in STUDIES[study].parts:
        folder = out / study / part.name
        runs = list(folder.glob("*/config.json"))
        if len(runs) == SEEDS and all(saved_step(run.parent) >= part.steps for run in runs):
            found.setdefault(part.setting, {})[part.decay] = read_arm(part.name, folder)
    return found


def each(arms: Mapping[float, Arm], measure: Any) -> dict[float, dict[int, float]]:
    """A measure of every run, by weight decay and seed."""
    return {d: {s: measure(log) for s, log in arm.logs.items()} for d, arm in arms.items()}


def collapses(arms: Mapping[float, Arm], levels: Mapping[str, Level]) -> dict[str, Any]:
    """The law of tau_2 at each level."""
    return {
        name: law(each({d: a for d, a in arms.items() if d < at.below}, at.of), -1)
        for name, at in levels.items()
    }


def from_the_fit(arms: Mapping[float, Arm]) -> dict[str, Any]:
    """Grokking, tau_1 and the rise of the test accuracy in a setting of AdamW."""
    fits = each(arms, lambda log: float(find_events(log).fit or math.nan))
    rises = each(arms, lambda log: float(find_events(log).generalisation or math.nan))
    told = [groks(log) for arm in arms.values() for log in arm.logs.values()]
    return {
        "grok": [told.count(True), len(told)],
        "tau_1": law(fits, 0),
        "90 % of the best": {f"{d:g}": list(v.values()) for d, v in rises.items()},
    }


def analyse(study: str, done: Mapping[str, Mapping[float, Arm]]) -> dict[str, Any]:
    """Every outcome of the plan, from the arms that are complete."""
    chosen = STUDIES[study]
    settings = {
        name: ({} if in_theory(name) else from_the_fit(arms)) | collapses(arms, chosen.levels(name))
        for name, arms in done.items()
    }
    missing = [p.name for p in chosen.parts if p.decay not in done.get(p.setting, {})]
    return {"versions": versions(), "not run": missing, "settings": settings}


LAWS = {"tau_1": 0, "tau_2": -1, "tau_2, deeper": -1, "tau_2, fixed level": -1}


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


def draw(study: str, done: Mapping[str, Mapping[float, Arm]], path: Path) -> None:
    """RNC1 of every run against the weight decay times the step, a panel for each setting."""
    columns = len(done) if len(done) <= 4 else 3
    rows = math.ceil(len(done) / columns)
    figure = plt.figure(figsize=(3.4 * columns, 3.4 * rows), layout="constrained")
    for place, (name, arms) in enumerate(done.items(), start=1):
        axis = figure.add_subplot(rows, columns, place)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        for row, (decay, arm) in enumerate(sorted(arms.items())):
            for index, log in enumerate(arm.logs.values()):
                steps, values = series(log, RNC1)
                label = f"λ = {decay:g}" if not index else None
                axis.plot(decay * steps, values, color=f"C{row}", lw=0.8, label=label)
        for level in STUDIES[study].levels(name).values():
            if level.value is not None:
                axis.axhline(level.value, color="0.6", lw=0.8)
        axis.set(yscale="log", title=name, xlabel="λ times step")
        axis.legend(fontsize=8)
        if place % columns == 1 % columns:
            axis.set_ylabel("training RNC1")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    """Parse the options; run the parts in order, or analyse those that are complete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "analyse"))
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--to", type=Path, default=TO, help="folder of the results")
    options = parser.parse_args()
    if options.what == "run":
        for part in STUDIES[options.study].parts:
            print(part.name, file=sys.stderr, flush=True)
            if not cause.run(config(options.study, part, options.out, options.data_dir)):
                return 1
        return 0
    done = complete(options.study, options.out)
    found = analyse(options.study, done)
    path = options.to / f"{options.study}.json"
    results_file.write(path, results_file.rounded(found))
    draw(options.study, done, path.with_suffix(".png"))
    print(table(found["settings"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
