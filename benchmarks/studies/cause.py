"""Runs the arms of docs/results/cause.md, on the digits or on MNIST.

    python benchmarks/studies/cause.py digits --out runs/cause
    python benchmarks/studies/cause.py mnist --data-dir DATA --out runs/cause

An arm that is complete is skipped, and one that was interrupted goes on. Ctrl-C or SIGTERM stops
after the current step.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from ncfast.experiments.sweep import sweep
from ncfast.experiments.sweep_config import SweepConfig
from ncfast.experiments.sweep_file import SWEEP
from ncfast.experiments.training.checkpoint import saved_step

DECAY, LAYERS = 0.1, 4


@dataclass(frozen=True)
class Setting:
    """One dataset: where the arms branch, where they end, and when they are measured."""

    branch: int
    steps: int
    test_schedule: str
    seed: int = 1000
    seeds: int = 5


SETTINGS = {
    "digits": Setting(branch=2000, steps=16_000, test_schedule="every:200"),
    "mnist": Setting(branch=6000, steps=18_000, test_schedule="every:400"),
}


def _pushed(penalty: str, mode: str) -> dict[str, str]:
    return {"penalty": penalty, "penalty_mode": mode}


_NO_DECAY = {"weight_decay": (0.0,), "adam_eps": 1e-4}
# in the order in which they are run; an arm without "start" branches from the trunk
ARMS: dict[str, dict[str, object]] = {
    "none": {},
    "rnc1 down": _pushed("rnc1", "servo:0.1"),
    "classifier decay": {
        "weight_decay": (LAYERS * DECAY,),
        "weight_decay_layers": "classifier",
    },
    "quotient down": _pushed("quotient", "servo:0.1"),
    "rnc1 up": _pushed("rnc1", "servo:3"),
    "zero classifier": {"zero_last": True, "start_from": None},
    "quotient up": _pushed("quotient", "servo:3"),
    "cdnv down": _pushed("cdnv", "servo:0.1"),
    "random": _pushed("random", "ratio:0.3"),
    "hidden decay": {
        "weight_decay": (round(LAYERS * DECAY / (LAYERS - 1), 4),),
        "weight_decay_layers": "hidden",
    },
    "no decay": _NO_DECAY,
    "no decay, rnc1 down": {**_NO_DECAY, **_pushed("rnc1", "servo:0.1")},
    "etf": _pushed("etf", "ratio:0.3"),
}


def folder(out: Path, dataset: str, arm: str) -> Path:
    """The directory of an arm's sweep."""
    return out / dataset / arm.replace(",", "").replace(" ", "-")


def configs(dataset: str, out: Path, data_dir: Path | None) -> dict[str, SweepConfig]:
    """The sweep of the trunk and those of the arms, in the order in which they are run."""
    chosen = SETTINGS[dataset]
    shared = {
        "dataset": dataset,
        "data_dir": data_dir,
        "weight_decay": (DECAY,),
        "seed": chosen.seed,
        "seeds": chosen.seeds,
        "schedule": "every:200",
        "test_schedule": chosen.test_schedule,
        "probes": "every:2000",
        "information": 0,
        "checkpoint_every": 2000,
        "device": "cpu",
    }
    trunk = folder(out, dataset, "trunk")
    found = {"trunk": SweepConfig(out=trunk, steps=chosen.branch, **shared)}
    for name, changes in ARMS.items():
        settings = {**shared, "start_from": trunk, **changes}
        path = folder(out, dataset, name)
        found[name] = SweepConfig(out=path, steps=chosen.steps, **settings)
    return found


def run(config: SweepConfig) -> bool:
    """Run or resume one sweep; False if it was interrupted."""
    replicas = config.replicas().values()
    if all(saved_step(replica.out) >= config.steps for replica in replicas):
        return True
    if (config.out / SWEEP).exists():
        config = SweepConfig(**{**vars(config), "resume": True})
    return sweep(config).finished


def main() -> int:
    """Parse the options and run the arms."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=SETTINGS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    for name in ("trunk", *ARMS):
        # one at a time: the settings of an arm name the runs of the trunk, which must be there
        print(f"{options.dataset}: {name}", file=sys.stderr, flush=True)
        if not run(configs(options.dataset, options.out, options.data_dir)[name]):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
