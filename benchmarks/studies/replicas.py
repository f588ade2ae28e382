"""Replica-steps per second of the batched program against the plain trainer, one run after another.

    python benchmarks/studies/replicas.py --out benchmarks/results/replicas.json

Both train the same replicas on the same batches. First both are trained for a hundred steps and
must agree; only then are they timed, interleaved, each round a ratio.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ncfast.benchmarks.plain.training import Trainer
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import ImageSet, load
from ncfast.experiments.run_dir import versions
from ncfast.experiments.training.program import ReplicaProgram

CASES = {
    "digits-mlp": {"dataset": "digits"},
    "f2": {"dataset": "mnist"},
    "digits-cnn": {"dataset": "digits", "model": "cnn", "scale_layers": "linear"},
}
DECAYS = (0.3, 0.1, 0.03, 0.01)
GATE_STEPS, GATE_TOLERANCE = 100, 5e-3


def configs(case: str, replicas: int) -> list[TrainConfig]:
    return [
        TrainConfig(
            out=Path("unused"),
            seed=42 + index // len(DECAYS),
            weight_decay=DECAYS[index % len(DECAYS)],
            **CASES[case],
        )
        for index in range(replicas)
    ]


def data(case: str) -> ImageSet:
    return load(CASES[case]["dataset"], train_size=configs(case, 1)[0].effective_train_size)[0]


def distances(program: ReplicaProgram, trainers: list[Trainer]) -> list[float]:
    """Relative distance of all weights of each replica from those of its trainer."""
    found = []
    for replica, trainer in enumerate(trainers):
        state = trainer.model.state_dict()
        ours = torch.cat([v.flatten() for v in program.model_state(replica).values()])
        theirs = torch.cat([state[name].flatten() for name in program.model_state(replica)])
        found.append(((ours - theirs).norm() / theirs.norm()).item())
    return found


def seconds(function: Callable[[], None], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        function()
    return time.perf_counter() - start


def run(case: str, replicas: int, steps: int, rounds: int, gate: int) -> dict[str, object]:
    train, chosen, device = data(case), configs(case, replicas), torch.device("cpu")
    program = ReplicaProgram(chosen, train, device)
    trainers = [Trainer(config, train, device) for config in chosen]
    for _ in range(gate):
        program.step()
        for trainer in trainers:
            trainer.step()
    apart = distances(program, trainers)
    if statistics.median(apart) > GATE_TOLERANCE:
        raise SystemExit(f"{case}: not timed, replicas differ from the trainer by {apart}")
    ratios, batched, plain = [], [], []
    for _ in range(rounds):
        one = seconds(program.step, steps) / steps / replicas
        # one run after the other, as a user without the sweep would
        two = sum(seconds(trainer.step, steps) for trainer in trainers) / steps / replicas
        batched.append(one)
        plain.append(two)
        ratios.append(two / one)
    return {
        "case": case,
        "replicas": replicas,
        "gate": {
            "steps": gate,
            "relative distance, median": statistics.median(apart),
            "relative distance, largest": max(apart),
        },
        "rounds": rounds,
        "ratio": statistics.median(ratios),
        "ratio range": [min(ratios), max(ratios)],
        "replica-steps per second, batched": 1 / statistics.median(batched),
        "replica-steps per second, one after the other": 1 / statistics.median(plain),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cases", nargs="+", default=["digits-mlp", "f2"], choices=list(CASES))
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--gate", type=int, default=GATE_STEPS)
    options = parser.parse_args()
    results = [
        run(case, options.replicas, options.steps, options.rounds, options.gate)
        for case in options.cases
    ]
    content = {
        "versions": versions(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "results": results,
    }
    text = json.dumps(content, indent=2)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
