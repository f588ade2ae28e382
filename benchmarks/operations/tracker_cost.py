"""The cost of tracking in full: more settings, a ResNet18, and the tracker alone.

All run only if named. "the steps alone, again" is a second copy without tracking. Its difference
from the first is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import ncfast
from ncfast.benchmarks.operations import tracker_step
from ncfast.benchmarks.operations.tracker_step import CLASSES, alone, by_items, tracked
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation

STAGES = tuple(f"features.stage{number}" for number in (1, 2, 3, 4))
STANDARD = {"metrics": "standard"}
# Beyond the standard tier: rows are read again, or a decomposition is made.
FOUR = ("nc1.pinv", "nc2.condition", "nc3.self_duality", "nc4.agreement")
MLP = {"D": 200, "batch": 100, "steps": 128}
RESNET: dict[str, Any] = {"model": "resnet18", "pixels": 32, "batch": 128, "steps": 1}
ALONE = {"N": 100, "D": 200, "steps": 100_000}


def mlp(quick: bool) -> list[Case]:
    """A block of 128 steps, or of 16."""
    return [tracker_step.describe(MLP | {"steps": 16} if quick else MLP, quick)]


def resnet(quick: bool) -> list[Case]:
    """Bytes and operations are not counted. Pooled float32 features have a larger error."""
    sizes = RESNET | {"pixels": 8, "batch": 20} if quick else RESNET
    return [Case(sizes, bytes=0, flops=0, promise=1e-5, budget=1e-4, quick=quick)]


def images(case: Case, seed: int, device: torch.device) -> Inputs:
    """Two random batches; their labels have every class twice."""
    pixels, batch, steps = (int(case.sizes[name]) for name in ("pixels", "batch", "steps"))
    draw = torch.Generator(device).manual_seed(seed)
    shape = 2, batch, 3, pixels, pixels
    return {
        "inputs": torch.randn(shape, generator=draw, device=device),
        "labels": torch.arange(batch, device=device).expand(2, -1) % CLASSES,
        "steps": steps,
        "model": "resnet18",
        "layers": STAGES,
    }


def by_itself(quick: bool) -> list[Case]:
    sizes = ALONE | {"steps": 1000} if quick else ALONE
    read = 4 * sizes["N"] * sizes["D"] + 8 * sizes["N"]
    flops = 6 * sizes["N"] * sizes["D"] * sizes["steps"]
    return [Case(sizes, bytes=read, flops=flops, quick=quick)]


def features(case: Case, seed: int, device: torch.device) -> Inputs:
    """The same rows at every step."""
    n, d, steps = (int(case.sizes[name]) for name in ("N", "D", "steps"))
    draw = torch.Generator(device).manual_seed(seed)
    feats = torch.randn(n, d, generator=draw, device=device)
    return {"feats": feats, "labels": torch.arange(n, device=device) % CLASSES, "steps": steps}


def truth_of_features(inputs: Inputs) -> dict[str, float]:
    found = tracker_step.of_features(inputs["feats"].double(), inputs["labels"], unbiased=False)
    return {name: float(value) for name, value in found.items()}


def steps(inputs: Inputs, kept: bool) -> Call:
    """Steps of the tracker alone, into a file or without a sink."""
    feats, labels = inputs["feats"], inputs["labels"]
    path = tracker_step.file_of(feats)
    sinks: Sequence[Any] = [path] if kept else []
    tracker = ncfast.Tracker(num_classes=CLASSES, sinks=sinks, on_sigterm=False, **STANDARD)

    def call() -> Any:
        for _ in range(inputs["steps"]):
            tracker.step(feats=feats, labels=labels)
        tracker.flush()
        return path if kept else None

    return call


def _tracker(name: str, **options: Any) -> Contestant:
    return Contestant(f"ncfast tracker, {name}", "ncfast", partial(tracked, **options))


AGAIN = Contestant("the steps alone, again", "baseline", alone)
MLP_OPERATION = replace(
    tracker_step.OPERATION,
    name="tracker_cost.mlp",
    cases=mlp,
    contestants=[
        _tracker("standard tier", **STANDARD),
        _tracker("standard tier, ema", **STANDARD, stream="ema:0.99"),
        _tracker("standard tier, window", **STANDARD, stream="window:100"),
        _tracker("rnc1 alone", metrics="rnc1"),
        _tracker("pinv, condition, duality, agreement", metrics=FOUR),
        *tracker_step.CONTESTANTS,
        AGAIN,
    ],
    when_named=True,
)
RESNET_OPERATION = replace(
    tracker_step.OPERATION,
    name="tracker_cost.resnet18",
    cases=resnet,
    make=images,
    contestants=[
        _tracker("standard tier, four layers", **STANDARD),
        Contestant("the steps alone, nothing logged", "baseline", alone),
        AGAIN,
        Contestant(
            "loss and accuracy by .item()",
            "torch",
            partial(by_items, values=tracker_step.loss_and_accuracy),
        ),
    ],
    when_named=True,
)
ALONE_OPERATION = Operation(
    "tracker_cost.alone",
    by_itself,
    features,
    truth_of_features,
    tracker_step.error,
    [
        Contestant("ncfast tracker, into a file", "ncfast", partial(steps, kept=True)),
        Contestant("ncfast tracker, without a sink", "ncfast", partial(steps, kept=False)),
    ],
    when_named=True,
)
