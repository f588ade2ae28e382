"""Runs and analyses docs/results/noise.md: estimators of superfluous information over the noise.

    python benchmarks/studies/noise.py digits --out runs/noise
    python benchmarks/studies/noise.py mnist --data-dir DATA --out runs/noise

Trains five seeds to two steps, which is skipped where it is complete, and estimates.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import torch

from ncfast import noise_sensitivity
from ncfast.benchmarks import results_file
from ncfast.benchmarks.studies import cause
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data.datasets import load
from ncfast.experiments.data.images import ImageSet
from ncfast.experiments.effects import interval_of, read_arm
from ncfast.experiments.models.build import build_model
from ncfast.experiments.presets import expand
from ncfast.experiments.run_dir import versions
from ncfast.experiments.sweep_config import SweepConfig
from ncfast.experiments.training.checkpoint import restore
from ncfast.information.within_classes import Estimator

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[2]
TO = ROOT / "docs" / "results" / "noise"
SEEDS = 5
METHODS: tuple[Estimator, ...] = ("channel", "ksg", "kl")
SIGMAS = (0.01, 0.03, 0.1, 0.3, 1.0)
SAMPLES, DIM = 1500, 4


@dataclass(frozen=True)
class Setting:
    """The runs of one dataset.

    Attributes:
        preset: a preset of `ncfast sweep`.
        quick: whether to use its small form.
        decay: weight decay.
        steps: the step before the late rise of the test accuracy, and the step after it.
        seed: the first of the five seeds.
    """

    preset: Literal["f2", "f3"]
    quick: bool
    decay: float
    steps: tuple[int, int]
    seed: int


SETTINGS = {
    "digits": Setting("f3", True, 0.3, (2000, 8000), 1010),
    "mnist": Setting("f2", False, 0.01, (17_000, 60_000), 1020),
}


def config(dataset: str, out: Path, data_dir: Path | None, late: bool) -> SweepConfig:
    """The sweep that ends at the first step, or the one that continues it to the second."""
    chosen = SETTINGS[dataset]
    first, last = (out / dataset / f"{step}" for step in chosen.steps)
    base = expand(
        SweepConfig(out=last if late else first, preset=chosen.preset, quick=chosen.quick)
    )
    changes = {
        "data_dir": data_dir,
        "weight_decay": (chosen.decay,),
        "steps": chosen.steps[late],
        "start_from": first if late else None,
        "seed": chosen.seed,
        "seeds": SEEDS,
        "schedule": "every:500",
        "probes": "log:2",
        "information": 0,
        "device": "cpu",
    }
    return SweepConfig(**{**vars(base), **changes})


def features(run: TrainConfig, split: ImageSet) -> torch.Tensor:
    """The (N, D) features of the network in a run's checkpoint."""
    model = build_model(run, split).eval()

    def put(tensors: dict[str, torch.Tensor]) -> None:
        named = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
        model.load_state_dict(named)

    restore(run.out, put)
    with torch.no_grad():
        return model.features(split.batch(slice(0, len(split)))[0])


def estimates(sweep: SweepConfig) -> dict[tuple[str, float], list[float]]:
    """The estimate in nats by method and noise, one for each seed."""
    split = load(sweep.dataset, data_dir=sweep.data_dir, train_size=200)[1].first(SAMPLES)
    inputs, labels = split.batch(slice(0, SAMPLES))
    found: dict[tuple[str, float], list[float]] = {}
    for run in sweep.replicas().values():
        swept = noise_sensitivity(
            features(run, split),
            labels,
            inputs.flatten(1),
            sigmas=SIGMAS,
            methods=METHODS,
            dim=DIM,
            stderr=False,
        )
        for key, estimate in swept.items():
            found.setdefault(key, []).append(estimate.value)
    return found


def accuracies(sweep: SweepConfig) -> dict[str, list[float]]:
    """The accuracy of every seed at the last step, by split."""
    last = [log[-1] for log in read_arm("", sweep.out).logs.values()]
    return {split: [log[f"{split}/accuracy"] for log in last] for split in ("train", "test")}


def judge(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """The fall between the two steps by the plan: after over before, as an interval over seeds."""
    pairs = list(zip(before, after, strict=True))
    logs = [math.log(b / a) if min(a, b) > 0 else math.nan for a, b in pairs]
    mean = interval_of(logs)
    change = interval_of([b - a for a, b in pairs])
    verdict = "falls" if change.high < 0 else "rises" if change.low > 0 else "cannot tell"
    return {
        "before": list(before),
        "after": list(after),
        "ratio": [math.exp(x) for x in (mean.mean, mean.low, mean.high)],
        "difference": [change.mean, change.low, change.high],
        "verdict": verdict,
    }


def analyse(
    before: Mapping[tuple[str, float], list[float]], after: Mapping[tuple[str, float], list[float]]
) -> dict[str, Any]:
    """Every outcome of the plan, from the estimates at both steps."""
    return {
        method: {
            f"{sigma:g}": judge(before[method, sigma], after[method, sigma]) for sigma in SIGMAS
        }
        for method in METHODS
    }


def conclude(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether the fall depends on the choice, by the plan."""
    verdicts = {one["verdict"] for by_sigma in results.values() for one in by_sigma.values()}
    if verdicts == {"falls"}:
        return "does not depend on the choice"
    return "depends on the choice" if "rises" in verdicts else "cannot tell"


def draw(results: Mapping[str, Mapping[str, Any]], steps: Sequence[int], path: Path) -> None:
    """The estimates of every seed against the noise at both steps, a panel for each estimator."""
    figure, axes = plt.subplots(1, len(METHODS), figsize=(9, 3), layout="constrained")
    for axis, method in zip(axes, METHODS, strict=True):
        for name, step, color in zip(("before", "after"), steps, ("C0", "C1"), strict=True):
            values = np.array([results[method][f"{sigma:g}"][name] for sigma in SIGMAS])
            axis.plot(SIGMAS, values, color=color, lw=0.6, alpha=0.5)
            label = f"step {step:,}"
            axis.plot(SIGMAS, values.mean(1), "o-", color=color, ms=3, label=label)
        axis.axhline(0, color="0.6", lw=0.8)
        axis.set(xscale="log", title=method, xlabel="noise σ")
        axis.legend(fontsize=8)
    axes[0].set_ylabel("nats")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Mean estimates at both steps, their ratio, and the verdict, in Markdown."""
    rows = ["| σ | " + " | ".join(METHODS) + " |", "|---" * (len(METHODS) + 1) + "|"]
    for sigma in SIGMAS:
        cells = []
        for method in METHODS:
            one = results[method][f"{sigma:g}"]
            ratio = [x for x in one["ratio"] if x is not None and math.isfinite(x)]
            told = "{:.2f} ({:.2f} to {:.2f})".format(*ratio) if ratio else "no ratio"
            means = (float(np.mean(one[name])) for name in ("before", "after"))
            cells.append("{:.3f} to {:.3f}: ".format(*means) + f"{told}, {one['verdict']}")
        rows.append(f"| {sigma:g} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> int:
    """Parse the options, train what is missing, and estimate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=SETTINGS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--to", type=Path, default=TO, help="folder of the results")
    options = parser.parse_args()
    found, reached = [], []
    for late in (False, True):
        sweep = config(options.dataset, options.out, options.data_dir, late)
        if not cause.run(sweep):
            return 1
        found.append(estimates(sweep))
        reached.append(accuracies(sweep))
    results = analyse(*found)
    steps = SETTINGS[options.dataset].steps
    content = {
        "versions": versions(),
        "accuracy": {f"{step}": one for step, one in zip(steps, reached, strict=True)},
        "verdict": conclude(results),
        "methods": results,
    }
    path = options.to / f"{options.dataset}.json"
    results_file.write(path, results_file.rounded(content))
    draw(results, steps, path.with_suffix(".png"))
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
