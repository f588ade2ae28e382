"""Steps of several replicas of one network, each with its own seed and weight decay.

`replica_step.f2` trains the network of figure 2 on MNIST, which it needs (NCFAST_DATA). It runs
only if named.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
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
# Adam divides by the size of the gradient. If the gradient is rounding, so is the first update.
ROUNDED = 1e-3


def cases(quick: bool) -> list[Case]:
    return [describe(sizes, quick) for sizes in (QUICK if quick else FULL)]


def describe(sizes: dict[str, Any], quick: bool) -> Case:
    """Bytes and operations of the network are not counted."""
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
    splits = load(configs[0].dataset, train_size=configs[0].effective_train_size)
    train, test = (split.to(device) for split in splits)
    found = {"configs": configs, "train": train, "test": test, "device": device}
    return found | {"steps": int(case.sizes["steps"])}


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
    """The weights sorted by name, in float64 on the host."""
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


def by_itself(inputs: Inputs) -> Call:
    """As in `ncfast train`: a program of one replica, one run after another."""
    calls = [batched(inputs | {"configs": [config]}) for config in inputs["configs"]]
    return lambda: [weights for call in calls for weights in call()]


def released(inputs: Inputs, loaded: bool) -> Call:
    """As in the authors' code, with their data loader or without, one run after another."""
    from ncfast.benchmarks.plain.released import TheirWay

    splits = inputs["train"], inputs["test"]
    ways = [TheirWay(config, *splits, loaded=loaded) for config in inputs["configs"]]

    def call() -> list[Tensor]:
        for way in ways:
            for _ in range(inputs["steps"]):
                way.step()
        return [_in_our_order(way.model, inputs) for way in ways]

    return call


def _in_our_order(model: torch.nn.Module, inputs: Inputs) -> Tensor:
    """The weights under the names of ncfast, which define the order."""
    from ncfast.experiments.models import build_model

    names = build_model(inputs["configs"][0], inputs["train"]).state_dict()
    return _flat(dict(zip(names, model.state_dict().values(), strict=True)))


def experiments(case: Case) -> str | None:
    """The trainers need the packages of the experiments."""
    for name in ("tyro", "sklearn"):
        if reason := availability.package(name)(case):
            return reason
    return None


CONTESTANTS = [
    Contestant("ncfast batched program", "ncfast", batched, experiments),
    Contestant("one run after another", "torch", one_after_the_other, experiments),
]

OPERATION = Operation("replica_step", cases, make, truth, error, CONTESTANTS)
ON_MNIST = replace(
    OPERATION,
    name="replica_step.f2",
    cases=lambda quick: [describe(F2, quick)],
    contestants=[
        *CONTESTANTS,
        Contestant("ncfast, one run after another", "ncfast", by_itself, experiments),
        *(
            Contestant(
                f"the authors' way, {label} their data loader",
                "public",
                partial(released, loaded=loaded),
                availability.package("PIL"),
            )
            for label, loaded in (("with", True), ("without", False))
        ),
    ],
    when_named=True,
)
