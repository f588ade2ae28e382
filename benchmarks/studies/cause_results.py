"""Analyses the arms that benchmarks/studies/cause.py ran, by the plan in docs/results/cause.md.

    python benchmarks/studies/cause_results.py --out runs/cause

Writes docs/results/cause/DATASET.json and effects.png, and prints the tables. An arm counts as run
if all of its seeds are at the last step; the others are named as not run.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from ncfast.benchmarks import results_file
from ncfast.benchmarks.studies import cause
from ncfast.experiments.effects import (
    Arm,
    Effect,
    Push,
    decay_sum,
    drives,
    effect,
    interval_of,
    is_within,
    leftover_step,
    loss_step,
    read_arm,
)
from ncfast.experiments.run_dir import versions
from ncfast.experiments.training.checkpoint import saved_step
from ncfast.tracking.analytics.events import find_events

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[2]
TO = ROOT / "docs" / "results" / "cause"
PUSHES = {
    "rnc1 down": Push("train/rnc1.max", "down"),
    "rnc1 up": Push("train/rnc1.max", "up"),
    "quotient down": Push("train/nc1.quotient", "down"),
    "quotient up": Push("train/nc1.quotient", "up"),
    "cdnv down": Push("train/nc1.cdnv", "down"),
    "no decay, rnc1 down": Push("train/rnc1.max", "down"),
}
RATIOS = (
    *("train/rnc1.max", "train/rnc1.mean", "train/nc1.quotient", "train/nc2.condition"),
    *("test/within_trace", "test/rnc1.max", "test/rnc1.mean", "test/nc1.quotient"),
    *("test/bound.generalization", "test/bound.superfluous@0.1"),
)
LEVELS = (
    *("train/norm_ratio", "train/common_offset", "train/dead_units"),
    *("test/nearest_mean_accuracy", "test/ridge_accuracy", "test/accuracy"),
)


def value(records: Sequence[Mapping[str, float]], key: str, step: int) -> float:
    """The value of ``key`` in the record of a step; NaN if it was not measured."""
    return next((r[key] for r in records if r["step"] == step and key in r), math.nan)


def at(arm: Arm, control: Arm, steps: Mapping[int, int]) -> dict[str, float]:
    """Ratios to the control (geometric mean) and levels (mean) at one step of each seed."""
    found = {}
    for key in RATIOS:
        pairs = [
            (value(arm.logs[s], key, n), value(control.logs[s], key, n)) for s, n in steps.items()
        ]
        found[f"{key} over none"] = float(np.exp(np.mean([math.log(a / b) for a, b in pairs])))
    for key in LEVELS:
        found[key] = float(np.mean([value(arm.logs[s], key, n) for s, n in steps.items()]))
    return found


def interval(values: Sequence[float]) -> list[float]:
    """Mean, low and high end; NaN where a value is not finite."""
    found = interval_of(values)
    return [found.mean, found.low, found.high]


def branch_of(arm: Arm, dataset: str) -> int:
    """t0; for the arm with a past of its own the first log point after the fit of all seeds."""
    if arm.settings["start_from"] is not None:
        return cause.SETTINGS[dataset].branch
    logs = list(arm.logs.values())
    fit = max(find_events(list(log)).fit or 0 for log in logs)
    return min(int(r["step"]) for r in logs[0] if "test/loss" in r and r["step"] >= fit)


def law(arm: Arm, found: Effect, branch: int) -> dict[str, Any]:
    """The rival's prediction of each seed, and how far the outcome is from it."""
    decay = decay_sum(arm.settings)
    lr = float(arm.settings["lr"])
    said = [leftover_step(arm.logs[p.seed], branch, lr, decay) for p in found.pairs]
    reached = [pair.arm for pair in found.pairs]
    if decay == 0:
        return {"predicted": "never", "holds": not any(one.reached for one in reached)}
    gaps = [
        math.log(one.step / step) if one.step and one.reached else math.nan
        for one, step in zip(reached, said, strict=True)
    ]
    mean = interval_of(gaps)
    return {
        "predicted": said,
        "log ratio": [mean.mean, mean.low, mean.high],
        "holds": is_within(mean, 0.05),
    }


def judge(arm: Arm, control: Arm, dataset: str) -> dict[str, Any]:
    """Every outcome of an arm, as JSON has it."""
    t0, branch = cause.SETTINGS[dataset].branch, branch_of(arm, dataset)
    last = cause.SETTINGS[dataset].steps
    found = effect(arm, control, branch=branch, push=PUSHES.get(arm.name))
    accuracy = effect(arm, control, branch=branch, push=PUSHES.get(arm.name), outcome="accuracy")
    seeds = [pair.seed for pair in found.pairs]
    probes = {s: int(loss_step(control.logs[s]).step // 2000 * 2000) for s in seeds}
    gains = [
        value(arm.logs[s], "test/accuracy", last) - value(control.logs[s], "test/accuracy", last)
        for s in seeds
    ]
    return {
        "seeds": seeds,
        "loss 1 at": [pair.arm.step for pair in found.pairs],
        "loss reached": [pair.arm.reached for pair in found.pairs],
        "log ratio": interval([pair.log_ratio() for pair in found.pairs]),
        "log ratios": [pair.log_ratio() for pair in found.pairs],
        "log ratio from t0": interval([pair.log_ratio(t0) for pair in found.pairs]),
        "verdict": found.verdict,
        "fitted": [pair.fitted for pair in found.pairs],
        "moved": [pair.moved for pair in found.pairs],
        "accuracy 90 % at": [pair.arm.step for pair in accuracy.pairs],
        "accuracy reached": [pair.arm.reached for pair in accuracy.pairs],
        "accuracy log ratio": interval([pair.log_ratio() for pair in accuracy.pairs]),
        "accuracy verdict": accuracy.verdict,
        "last accuracy over none": interval(gains),
        "law": law(arm, found, branch),
        "before the control's step": at(arm, control, probes),
        "at the end": at(arm, control, dict.fromkeys(seeds, last)),
    }


def complete(out: Path, dataset: str) -> dict[str, Arm]:
    """The arms of which every seed is at the last step, in the order of the plan."""
    found = {}
    for name in cause.ARMS:
        folder = cause.folder(out, dataset, name)
        if not folder.exists():
            continue
        arm = read_arm(name, folder)
        last = cause.SETTINGS[dataset].steps
        if all(saved_step(path.parent) >= last for path in folder.glob("*/config.json")):
            found[name] = arm
    return found


def unfitted(arms: Mapping[str, Arm], dataset: str) -> list[int]:
    """The seeds that are left out: their training accuracy at t0 is below 0.99."""
    t0 = cause.SETTINGS[dataset].branch
    logs = arms["none"].logs.items()
    return [seed for seed, log in logs if not value(log, "train/accuracy", t0) >= 0.99]


def without(arm: Arm, seeds: Sequence[int]) -> Arm:
    """The arm without some seeds."""
    return Arm(arm.name, {s: log for s, log in arm.logs.items() if s not in seeds}, arm.settings)


def analyse(out: Path, dataset: str) -> dict[str, Any] | None:
    """The results of one dataset; None if its control was not run."""
    arms = complete(out, dataset)
    if "none" not in arms:
        return None
    left = unfitted(arms, dataset)
    arms = {name: without(arm, left) for name, arm in arms.items()}
    control = arms["none"]
    results = {name: judge(arm, control, dataset) for name, arm in arms.items()}
    t0 = cause.SETTINGS[dataset].branch
    effects = {
        name: effect(arm, control, branch=t0, push=PUSHES[name])
        for name, arm in arms.items()
        if name in PUSHES
    }
    return {
        "dataset": dataset,
        "versions": versions(),
        "left out": left,
        "not run": [name for name in cause.ARMS if name not in arms],
        **{name: conclude(name, effects) for name in ("rnc1", "quotient", "cdnv")},
        "arms": results,
        "curves": {name: curve(arm) for name, arm in arms.items()},
    }


def conclude(quantity: str, effects: Mapping[str, Effect]) -> str:
    """Whether a quantity drives generalisation; "cannot tell" if an arm of the plan was not run."""
    names = [name for name in (f"{quantity} down", f"{quantity} up") if name in PUSHES]
    if not all(name in effects for name in names):
        return "cannot tell"
    return drives(*(effects.get(f"{quantity} {way}") for way in ("down", "up")))


def curve(arm: Arm) -> dict[str, list[float]]:
    """Geometric mean of the test loss over the seeds at each log point."""
    logs = list(arm.logs.values())
    steps = [int(r["step"]) for r in logs[0] if "test/loss" in r]
    means = [np.exp(np.mean([math.log(value(log, "test/loss", s)) for log in logs])) for s in steps]
    return {"steps": steps, "loss": [float(f"{mean:.5g}") for mean in means]}


def table(found: dict[str, Any]) -> str:
    """The effects as a table in Markdown."""
    rows = [
        "| arm | moved to | fitted | T | T over none (95 %) | from t0 | verdict | T over the law | "
        "90 % of the best at | last test accuracy minus none |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in found["arms"].items():
        moved = [x for x in one["moved"] if x is not None]
        told = f"{min(moved):.2g} to {max(moved):.2g}" if moved else ""
        steps, rises = (spread(one[f"{key} at"], one[f"{short} reached"]) for key, short in _STEPS)
        cells = [name, told, f"{min(one['fitted']):.2f}", steps]
        if name == "none":
            cells += ["1", "1", ""]
        elif not all(one["loss reached"]):
            cells += [f"at least {math.exp(min(one['log ratios'])):.2f}", "", one["verdict"]]
        else:
            cells += [band(one["log ratio"]), band(one["log ratio from t0"]), one["verdict"]]
        cells += [band(one["law"]["log ratio"]) if "log ratio" in one["law"] else "", rises]
        mean, low, high = one["last accuracy over none"]
        cells += ["" if name == "none" else f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


_STEPS = (("loss 1", "loss"), ("accuracy 90 %", "accuracy"))


def spread(steps: Sequence[float], reached: Sequence[bool]) -> str:
    """The smallest and the largest step, if all runs have one."""
    if not all(reached):
        return "not in every run" if any(reached) else "never"
    return f"{min(steps):,.0f} to {max(steps):,.0f}"


def band(logs: Sequence[float]) -> str:
    """The exponentials of mean, low and high end."""
    if not all(map(math.isfinite, logs)):
        return "-"
    mean, low, high = (math.exp(x) for x in logs)
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Test loss of each arm, and the ratios of the steps with their intervals."""
    figure, axes = plt.subplots(
        len(results), 2, figsize=(11, 4.2 * len(results)), squeeze=False, layout="constrained"
    )
    for (left, right), found in zip(axes, results, strict=True):
        names = list(found["arms"])
        colours = dict(zip(cause.ARMS, plt.colormaps["tab20"].colors, strict=False))
        for name in names:
            line = found["curves"][name]
            left.plot(line["steps"], line["loss"], label=name, color=colours[name], lw=1.2)
        start = found["curves"]["none"]
        steps = np.array(start["steps"])
        rate = 2 * 1e-3 * cause.DECAY * cause.LAYERS
        left.plot(steps, start["loss"][0] * np.exp(-rate * (steps - steps[0])), "k:", label="law")
        left.axhline(1, color="0.6", lw=0.8)
        left.set(yscale="log", xlabel="step", ylabel="test loss", title=found["dataset"])
        left.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
        right.axvspan(0.95, 1.05, color="0.9")
        right.axvline(1, color="0.6", lw=0.8)
        others = [n for n in names if n != "none"]
        for row, name in enumerate(reversed(others)):
            one = found["arms"][name]
            finite = [math.exp(x) for x in one["log ratios"] if math.isfinite(x)]
            if all(one["loss reached"]):
                right.plot(finite, [row] * len(finite), "|", color=colours[name], ms=9)
            mean, low, high = one["log ratio"]
            if not math.isfinite(mean):
                right.text(1, row, "  at once", va="center", fontsize=8)
            elif not all(one["loss reached"]):
                right.text(1.23, row, "not reached", va="center", ha="right", fontsize=8)
            else:
                right.plot(np.exp([low, high]), [row, row], color=colours[name], lw=2)
                right.plot(math.exp(mean), row, "o", color=colours[name], ms=5)
        labels = [f"{n}: {found['arms'][n]['verdict']}" for n in reversed(others)]
        right.set_yticks(range(len(others)), labels, fontsize=8)
        right.set_title("95 % intervals, a line for each seed; grey: within 5 %", fontsize=9)
        right.set(
            xlabel="step of test loss 1, over that of none",
            ylim=(-0.7, len(others) - 0.3),
            xlim=(min(0.88, right.get_xlim()[0]), max(1.24, right.get_xlim()[1])),
        )
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncol=7, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parse the options, analyse both datasets, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where the arms were run")
    parser.add_argument("--to", type=Path, default=TO, help="folder of the results")
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    found = [analyse(options.out, dataset) for dataset in cause.SETTINGS]
    results = [one for one in found if one is not None]
    for one in results:
        path = options.to / f"{one['dataset']}.json"
        results_file.write(path, results_file.rounded(one))
        verdicts = {name: one[name] for name in ("rnc1", "quotient", "cdnv")}
        print(one["dataset"], verdicts, "not run:", one["not run"], "left out:", one["left out"])
        print(table(one), "\n")
    if results:
        draw(results, options.to / "effects.png")


if __name__ == "__main__":
    main()
