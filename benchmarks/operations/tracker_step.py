"""Training steps with a log line each: what watching a network costs.

Every contestant trains its own copy of the network from the same seed on the same batches, and a
call makes a block of steps whose records are in the file at its end. What they log differs: each
value is compared with float64 from the same features. "the steps alone" is what nobody can beat.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import ncfast
from ncfast.benchmarks import availability
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation

CLASSES, BATCHES = 10, 10
IDS = ("rnc1.max", "rnc1.mean", "nc1.quotient", "nc1.cdnv", "nc2.equinorm", "nc2.equiangular",
       "nc2.etf_error")  # fmt: skip
QUICK: list[dict[str, Any]] = [{"D": 200, "batch": 100, "steps": 16}]
FULL: list[dict[str, Any]] = [
    {"D": 200, "batch": 100, "steps": 32},
    {"D": 512, "batch": 512, "steps": 8},
]


def cases(quick: bool) -> list[Case]:
    return [describe(sizes, quick) for sizes in (QUICK if quick else FULL)]


def describe(sizes: dict[str, Any], quick: bool) -> Case:
    """A forward pass and twice that backwards; the traffic of a network is not counted."""
    d = sizes["D"]
    weights = 784 * d + 2 * d * d + d * CLASSES
    flops = 6 * weights * sizes["batch"] * sizes["steps"]
    return Case(sizes, bytes=0, flops=flops, budget=1e-4, quick=quick)


def make(case: Case, seed: int, device: torch.device) -> Inputs:
    """Random batches; their labels have every class."""
    d, batch, steps = (int(case.sizes[name]) for name in ("D", "batch", "steps"))
    draw = torch.Generator(device).manual_seed(seed)
    inputs = torch.randn(BATCHES, batch, 784, generator=draw, device=device)
    labels = torch.randint(CLASSES, (BATCHES, batch), generator=draw, device=device)
    labels[:, :CLASSES] = torch.arange(CLASSES, device=device)
    return {"inputs": inputs, "labels": labels, "width": d, "steps": steps}


class Loop:
    """A perceptron 784-D-D-D-10 with eightfold parameters, in training: the grokking recipe."""

    def __init__(self, inputs: Inputs) -> None:
        sizes = (784, *(inputs["width"],) * 3)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers: list[nn.Module] = []
            for before, after in itertools.pairwise(sizes):
                layers += [nn.Linear(before, after), nn.ReLU()]
            self.features, self.head = nn.Sequential(*layers), nn.Linear(sizes[-1], CLASSES)
        self.model = nn.Sequential(self.features, self.head).to(inputs["inputs"].device)
        for parameter in self.model.parameters():
            parameter.data.mul_(8)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=0.01, fused=True)
        self.inputs, self.done = inputs, 0

    def step(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One update; loss, logits, features and labels of its batch."""
        x, y = (self.inputs[name][self.done % BATCHES] for name in ("inputs", "labels"))
        self.done += 1
        feats = self.features(x)
        logits = self.head(feats)
        loss = functional.cross_entropy(logits, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach(), logits.detach(), feats.detach(), y


def truth(inputs: Inputs) -> dict[str, float]:
    """What the first record should hold, in float64 from the float32 features."""
    loop = Loop(inputs)
    x, y = inputs["inputs"][0], inputs["labels"][0]
    with torch.no_grad():
        feats = loop.features(x)
        logits = loop.head(feats).double()
    loss = functional.cross_entropy(logits, y)
    values = collapse(feats.double(), y)
    return {name: float(value) for name, value in values.items()} | {
        "loss": float(loss),
        "accuracy": float((logits.argmax(1) == y).double().mean()),
    }


def collapse(feats: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The seven metrics as their definitions read, in two passes, in the features' dtype."""
    k = CLASSES
    counts = torch.bincount(labels, minlength=k).to(feats.dtype)
    means = feats.new_zeros(k, feats.shape[1]).index_add_(0, labels, feats) / counts[:, None]
    squares = (feats - means[labels]).square().sum(1)
    variances = feats.new_zeros(k).index_add_(0, labels, squares) / counts
    trace, norms = squares.mean(), feats.norm(dim=1)
    centred = means - means.mean(0)
    lengths = centred.norm(dim=1)
    unit = centred / lengths[:, None]
    off = ~torch.eye(k, dtype=torch.bool, device=feats.device)
    apart = (means[:, None] - means).square().sum(-1)
    spread = (variances[:, None] + variances) / 2
    gram = centred @ centred.T
    etf = (torch.eye(k, dtype=feats.dtype, device=feats.device) - 1 / k) / math.sqrt(k - 1)
    values = (
        trace / norms.max() ** 2,
        trace / norms.mean() ** 2,
        trace / (centred.square().sum() / k),
        (spread / apart)[off].mean(),
        lengths.std(correction=0) / lengths.mean(),
        ((unit @ unit.T)[off] + 1 / (k - 1)).abs().mean(),
        (gram / gram.norm() - etf).norm(),
    )
    return dict(zip(IDS, values, strict=True))


def error(found: Path | None, exact: dict[str, float]) -> float:
    """Largest relative error in the first line of the file; zero where nothing was logged."""
    if found is None:
        return 0.0
    with found.open() as file:
        record = json.loads(file.readline())
    values = {name.removeprefix("train/"): value for name, value in record.items()}
    known = values.keys() & exact.keys()
    gaps = [abs(values[name] - exact[name]) / (abs(exact[name]) or 1.0) for name in known]
    return max(gaps, default=math.nan)


def alone(inputs: Inputs) -> Call:
    loop = Loop(inputs)

    def call() -> None:
        for _ in range(inputs["steps"]):
            loop.step()

    return call


def _logged(
    inputs: Inputs, loop: Loop, after: Callable[..., None], flush: Call, path: Path
) -> Call:
    def call() -> Path:
        for _ in range(inputs["steps"]):
            after(*loop.step())
        flush()
        return path

    return call


def _file(owner: object) -> Path:
    """A log file that goes when its owner does."""
    folder = tempfile.mkdtemp(prefix="ncfast-bench-")
    weakref.finalize(owner, shutil.rmtree, folder, True)
    return Path(folder) / "metrics.jsonl"


def tracked(inputs: Inputs, metrics: str | Sequence[str]) -> Call:
    loop = Loop(inputs)
    path = _file(loop)
    tracker = ncfast.Tracker(
        loop.model, num_classes=CLASSES, sinks=[path], metrics=metrics, on_sigterm=False
    )

    def after(loss: Tensor, logits: Tensor, feats: Tensor, labels: Tensor) -> None:
        tracker.step(labels=labels)

    return _logged(inputs, loop, after, tracker.flush, path)


def by_items(inputs: Inputs, values: Callable[..., dict[str, Tensor]]) -> Call:
    """What many loops do: numbers to the host at every step, a line of JSON each."""
    loop = Loop(inputs)
    path = _file(loop)
    file = path.open("a", buffering=1)
    weakref.finalize(loop, file.close)

    def after(*measured: Tensor) -> None:
        record = {name: value.item() for name, value in values(*measured).items()}
        file.write(json.dumps({"step": loop.done, **record}) + "\n")

    return _logged(inputs, loop, after, file.flush, path)


def loss_and_accuracy(
    loss: Tensor, logits: Tensor, feats: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    return {"loss": loss, "accuracy": (logits.argmax(1) == labels).float().mean()}


def plain_collapse(
    loss: Tensor, logits: Tensor, feats: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    return collapse(feats, labels)


def torchmetrics(inputs: Inputs) -> Call:
    from torchmetrics import MeanMetric, MetricCollection
    from torchmetrics.classification import MulticlassAccuracy

    device = inputs["inputs"].device
    accuracy = MetricCollection({"accuracy": MulticlassAccuracy(CLASSES, average="micro")})
    accuracy, mean = accuracy.to(device), MeanMetric().to(device)

    def values(loss: Tensor, logits: Tensor, feats: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return accuracy(logits, labels) | {"loss": mean(loss)}

    return by_items(inputs, values)


CONTESTANTS = [
    Contestant("ncfast tracker, seven metrics", "ncfast", partial(tracked, metrics=IDS)),
    Contestant("ncfast tracker, default set of nine", "ncfast", partial(tracked, metrics="all")),
    Contestant("the steps alone, nothing logged", "torch", alone),
    Contestant(
        "the seven in plain torch, by .item()", "public", partial(by_items, values=plain_collapse)
    ),
    Contestant(
        "loss and accuracy by .item()", "torch", partial(by_items, values=loss_and_accuracy)
    ),
    Contestant(
        "torchmetrics accuracy and mean loss",
        "library",
        torchmetrics,
        availability.package("torchmetrics"),
    ),
]

OPERATION = Operation("tracker_step", cases, make, truth, error, CONTESTANTS)
