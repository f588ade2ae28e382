"""Runs and analyses docs/results/noise.md: estimators of superfluous information over the noise.

    python benchmarks/studies/noise.py --out runs/noise

Trains five seeds to two steps, which is skipped where it is complete, and estimates.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ncfast import noise_sensitivity
from ncfast.benchmarks.studies import cause
from ncfast.benchmarks.studies.time_scales import rounded
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data.datasets import load
from ncfast.experiments.data.images import ImageSet
from ncfast.experiments.effects import interval_of
from ncfast.experiments.models.build import build_model
from ncfast.experiments.presets import expand
from ncfast.experiments.run_dir import versions
from ncfast.experiments.sweep_config import SweepConfig
from ncfast.experiments.training.checkpoint import restore
from ncfast.information.within_classes import Estimator

ROOT = Path(__file__).resolve().parents[2]
TO = ROOT / "docs" / "results" / "noise" / "digits.json"
SEED, SEEDS = 1010, 5
STEPS = (2000, 8000)
METHODS: tuple[Estimator, ...] = ("channel", "ksg", "kl")
SIGMAS = (0.01, 0.03, 0.1, 0.3, 1.0)
SAMPLES, DIM = 1500, 4


def config(out: Path, steps: int) -> SweepConfig:
    """The sweep that ends at a step: the quick form of `f3` with a decay of 0.3."""
    base = expand(SweepConfig(out=out / f"{steps}", preset="f3", quick=True))
    changes = {
        "weight_decay": (0.3,),
        "steps": steps,
        "seed": SEED,
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
    split = load("digits", train_size=200)[1].first(SAMPLES)
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


def analyse(found: Mapping[int, Mapping[tuple[str, float], list[float]]]) -> dict[str, Any]:
    """Every outcome of the plan, from the estimates at both steps."""
    first, last = STEPS
    return {
        method: {
            f"{sigma:g}": judge(found[first][method, sigma], found[last][method, sigma])
            for sigma in SIGMAS
        }
        for method in METHODS
    }


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
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--to", type=Path, default=TO, help="file of the results")
    options = parser.parse_args()
    found = {}
    for steps in STEPS:
        sweep = config(options.out, steps)
        if not cause.run(sweep):
            return 1
        found[steps] = estimates(sweep)
    results = analyse(found)
    options.to.parent.mkdir(parents=True, exist_ok=True)
    content = rounded({"versions": versions(), "methods": results})
    options.to.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
