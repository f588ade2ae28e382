"""Steps of several replicas of one network, each with its own seed and weight decay.

`replica_step.f2` trains the network of figure 2 on MNIST, which must be there (NCFAST_DATA); it
runs only when named.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ncfast.benchmarks import availability
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation

DECAYS = (0.3, 0.1, 0.03, 0.01)
QUICK: list[dict[str, Any]] = [{"data": "digits", "model": "mlp", "replicas": 4, "steps": 4}]
FULL: list[dict[str, Any]] = [
    {"data": "digits", "model": "mlp", "replicas": replicas, "steps": 10} for replicas in (4, 8, 16)
] + [{"data": "digits", "model": "cnn", "replicas": 4, "steps": 4}]
F2: dict[str, Any] = {"data": "mnist", "model": "mlp", "replicas": 8, "steps": 10}
# Adam divides by the size of the gradient: where that is rounding, so is the first update
ROUNDED = 1e-3


def cases(quick: bool) -> list[Case]:
    return [describe(sizes, quick) for sizes in (QUICK if quick else FULL)]


def describe(sizes: dict[str, Any], quick: bool) -> Case:
    """Neither bytes nor operations are counted: they are those of the network."""
    return Case(sizes, bytes=0, flops=0, promise=ROUNDED, budget=ROUNDED, quick=quick)


def make(case: Case, seed: int, device: torch.device) -> Inputs:
    """The settings of the replicas, and the training split."""
    from ncfast.experiments.config import TrainConfig
    from ncfast.experiments.data import load

    dataset, model = str(case.sizes["data"]), str(case.sizes["model"])
    configs = [
        TrainConfig(
            out=Path("unused"),
            dataset=dataset,  # type: ignore[arg-type]
            model=model,  # type: ignore[arg-type]
            scale_layers="all" if model == "mlp" else "linear",
            seed=42 + seed + replica // len(DECAYS),
            weight_decay=DECAYS[replica % len(DECAYS)],
        )
        for replica in range(int(case.sizes["replicas"]))
    ]
    train = load(configs[0].dataset, train_size=configs[0].effective_train_size)[0].to(device)
    return {"configs": configs, "train": train, "steps": int(case.sizes["steps"]), "device": device}


def truth(inputs: Inputs) -> list[Tensor]:
    """All weights of each replica after the steps, trained alone in float64."""
    from ncfast.benchmarks.plain.training import Trainer

    train = inputs["train"]
    wide = replace(train, mean=train.mean.double(), std=train.std.double())
    trainers = [Trainer(config, wide, inputs["device"]) for config in inputs["configs"]]
    for trainer in trainers:
        trainer.model.double()
        for _ in range(inputs["steps"]):
            trainer.step()
    return [_flat(trainer.model.state_dict()) for trainer in trainers]


def _flat(state: dict[str, Tensor]) -> Tensor:
    """Sorted by name, in float64 on the host."""
    return torch.cat([state[name].detach().double().cpu().flatten() for name in sorted(state)])


def error(found: list[Tensor], exact: list[Tensor]) -> float:
    """Largest over the replicas of the relative distance of all weights."""
    pairs = zip(found, exact, strict=True)
    return max(float((mine - other).norm() / other.norm()) for mine, other in pairs)


def batched(inputs: Inputs) -> Call:
    from ncfast.experiments.training.program import ReplicaProgram

    program = ReplicaProgram(inputs["configs"], inputs["train"], inputs["device"])

    def call() -> list[Tensor]:
        for _ in range(inputs["steps"]):
            program.step()
        return [_flat(program.model_state(replica)) for replica in range(len(program.configs))]

    return call


def one_after_the_other(inputs: Inputs) -> Call:
    """The plain trainer, one run after another: forward, backward, torch's optimiser."""
    from ncfast.benchmarks.plain.training import Trainer

    trainers = [Trainer(config, inputs["train"], inputs["device"]) for config in inputs["configs"]]

    def call() -> list[Tensor]:
        for trainer in trainers:
            for _ in range(inputs["steps"]):
                trainer.step()
        return [_flat(trainer.model.state_dict()) for trainer in trainers]

    return call


def _experiments(case: Case) -> str | None:
    """The trainers need what the experiments need."""
    for name in ("tyro", "sklearn"):
        if reason := availability.package(name)(case):
            return reason
    return None


CONTESTANTS = [
    Contestant("ncfast batched program", "ncfast", batched, _experiments),
    Contestant("one run after another", "torch", one_after_the_other, _experiments),
]

OPERATION = Operation("replica_step", cases, make, truth, error, CONTESTANTS)
ON_MNIST = replace(
    OPERATION,
    name="replica_step.f2",
    cases=lambda quick: [describe(F2, quick)],
    when_named=True,
)
