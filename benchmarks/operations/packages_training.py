"""A tracked training from the first line to the last: network, optimiser, steps, closed log.

Each call trains the same network from the same seed and writes a record at every step. Rivals log
what their package can give: accuracy, mean loss and the index of Calinski and Harabasz, whose
inverse is NC1 up to a factor. The file keeps how many numbers a record holds. "the training alone"
logs nothing: no rival, but the scale. Runs only if named.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ncfast
from ncfast.benchmarks import availability
from ncfast.benchmarks.operations import tracker_step
from ncfast.benchmarks.plain.loop import CLASSES, Loop
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation

BATCHES = 4
INDEX = "calinski_harabasz"
QUICK: list[dict[str, Any]] = [
    {"model": "mlp", "D": 32, "batch": 40, "steps": 4},
    {"model": "transformer", "pixels": 8, "batch": 20, "steps": 2},
]
FULL: list[dict[str, Any]] = [
    {"model": "mlp", "D": 200, "batch": 100, "steps": 200},
    {"model": "resnet18", "pixels": 32, "batch": 32, "steps": 2},
    {"model": "transformer", "pixels": 32, "batch": 128, "steps": 10},
]


def cases(quick: bool) -> list[Case]:
    """Bytes and operations are not counted."""
    return [
        Case(sizes, bytes=0, flops=0, promise=1e-5, budget=1e-4, quick=quick)
        for sizes in (QUICK if quick else FULL)
    ]


def make(case: Case, seed: int, device: torch.device) -> Inputs:
    """A few random batches; their labels have every class."""
    batch, steps = int(case.sizes["batch"]), int(case.sizes["steps"])
    draw = torch.Generator(device).manual_seed(seed)
    pixels = int(case.sizes.get("pixels", 0))
    shape = (3, pixels, pixels) if pixels else (784,)
    inputs = torch.randn(BATCHES, batch, *shape, generator=draw, device=device)
    labels = torch.arange(batch, device=device).expand(BATCHES, -1) % CLASSES
    found = {"inputs": inputs, "labels": labels, "steps": steps, "layers": ()}
    return found | {"model": case.sizes["model"], "width": case.sizes.get("D")}


def truth(inputs: Inputs) -> dict[str, float]:
    """The first record, in float64 from the float32 features."""
    found = tracker_step.truth(inputs)
    n = inputs["labels"].shape[1]
    return found | {INDEX: (n - CLASSES) / (CLASSES - 1) / found["nc1.quotient_sample"]}


def values(found: Path | dict[str, float] | None) -> dict[str, float]:
    """Records, and numbers in each, of a log."""
    if not isinstance(found, Path):
        return {}
    records = [json.loads(line) for line in found.read_text().splitlines()]
    known = [name for name in records[0] if name not in tracker_step.OWN] if records else []
    return {"records": len(records), "numbers a record": len(known)}


def error(found: Path | None, exact: dict[str, float]) -> float:
    return tracker_step.error(found, exact)


def alone(inputs: Inputs) -> Call:
    def call() -> None:
        loop = Loop(inputs)
        for _ in range(inputs["steps"]):
            loop.step()

    return call


def tracked(inputs: Inputs, metrics: str) -> Call:
    """Features and labels of the batch go to `ncfast.Tracker`, which writes the log itself."""
    path = tracker_step.file_of(inputs["inputs"])

    def call() -> Path:
        path.unlink(missing_ok=True)
        loop = Loop(inputs)
        with ncfast.Tracker(
            loop.model, num_classes=CLASSES, metrics=metrics, sinks=[path], on_sigterm=False
        ) as tracker:
            for _ in range(inputs["steps"]):
                *_, labels = loop.step()
                tracker.step(labels=labels)
        return path

    return call


def by_items(inputs: Inputs, start: Callable[[], Callable[..., dict[str, float]]]) -> Call:
    """The numbers of a rival, as one line of JSON at every step."""
    path = tracker_step.file_of(inputs["inputs"])

    def call() -> Path:
        loop, measure = Loop(inputs), start()
        with path.open("w", buffering=1) as file:
            for _ in range(inputs["steps"]):
                record = measure(*loop.step())
                file.write(json.dumps({"step": loop.done, **record}) + "\n")
        return path

    return call


def torchmetrics() -> Callable[..., dict[str, float]]:
    """Accuracy, mean loss and the index of each batch."""
    from torchmetrics import MeanMetric, MetricCollection
    from torchmetrics.classification import MulticlassAccuracy
    from torchmetrics.clustering import CalinskiHarabaszScore

    accuracy = MetricCollection({"accuracy": MulticlassAccuracy(CLASSES, average="micro")})
    mean, index = MeanMetric(), CalinskiHarabaszScore()

    def measure(loss: Tensor, logits: Tensor, feats: Tensor, labels: Tensor) -> dict[str, float]:
        found = accuracy(logits, labels) | {"loss": mean(loss), INDEX: index(feats, labels)}
        for metric in (accuracy, mean, index):
            metric.reset()
        return {name: float(value) for name, value in found.items()}

    return measure


def scikit_learn() -> Callable[..., dict[str, float]]:
    """The same by functions of scikit-learn."""
    from sklearn.metrics import accuracy_score, calinski_harabasz_score

    def measure(loss: Tensor, logits: Tensor, feats: Tensor, labels: Tensor) -> dict[str, float]:
        truth, rows = labels.numpy(), feats.numpy()
        return {
            "loss": loss.item(),
            "accuracy": float(accuracy_score(truth, logits.argmax(1).numpy())),
            INDEX: float(calinski_harabasz_score(rows, truth)),
        }

    return measure


def definitions() -> Callable[..., dict[str, float]]:
    """Seven collapse metrics by their definitions, read one by one."""

    def measure(loss: Tensor, logits: Tensor, feats: Tensor, labels: Tensor) -> dict[str, float]:
        found = tracker_step.collapse(feats, labels)
        return {name: value.item() for name, value in found.items()}

    return measure


OPERATION = Operation(
    "packages.training",
    cases,
    make,
    truth,
    error,
    [
        Contestant("ncfast Tracker, standard tier", "ncfast", partial(tracked, metrics="standard")),
        Contestant("ncfast Tracker, default set", "ncfast", partial(tracked, metrics="default")),
        Contestant("the training alone, nothing logged", "baseline", alone),
        Contestant(
            "torchmetrics accuracy, mean, Calinski-Harabasz",
            "library",
            partial(by_items, start=torchmetrics),
            availability.package("torchmetrics"),
        ),
        Contestant(
            "scikit-learn accuracy, Calinski-Harabasz",
            "library",
            partial(by_items, start=scikit_learn),
            availability.package("sklearn"),
        ),
        Contestant(
            "seven metrics by definition, torch, .item()",
            "public",
            partial(by_items, start=definitions),
        ),
    ],
    when_named=True,
    values=values,
)
