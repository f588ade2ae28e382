"""Training steps with one log record each: the cost of tracking. `tracker_cost` has more cases.

Every contestant trains its own copy of the network from the same seed on the same batches. A call
makes a block of steps, whose records are in the file at its end. Contestants log different values;
each value is compared with float64 from the same features. "the steps alone" is a lower bound.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ncfast
from ncfast.benchmarks import availability
from ncfast.benchmarks.plain import metrics_public
from ncfast.benchmarks.plain.loop import CLASSES, Loop
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation

BATCHES = 10
OWN = ("step", "tracker/run", "tracker/seconds")  # keys that are no measurements
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
    found = {"inputs": inputs, "labels": labels, "width": d, "steps": steps}
    return found | {"model": "mlp", "layers": ()}


def truth(inputs: Inputs) -> dict[str, float]:
    """The values of the first record, in float64 from the float32 features."""
    loop, outputs = Loop(inputs), dict[str, Tensor]()
    for name in inputs["layers"]:
        loop.model.get_submodule(name).register_forward_hook(
            lambda module, given, out, name=name: outputs.update({name: out.mean((2, 3))})
        )
    loss, logits, feats, y = loop.step()
    norms = [parameter.detach().double().norm() for parameter in loop.model.parameters()]
    found = {
        "loss": loss,
        "accuracy": (logits.argmax(1) == y).double().mean(),
        "weight.norm": torch.stack(norms).norm(),
    }
    for name, rows in {"": feats, **outputs}.items():
        layer, head = (f"{name}/", None) if name else ("", loop.head)
        x = rows.detach().double()
        once, averaged = (of_features(x, y, head, unbiased=each) for each in (False, True))
        found |= {f"{layer}{metric}": value for metric, value in once.items()}
        for kind in ("ema", "window"):
            found |= {f"{kind}/train/{layer}{m}": value for m, value in averaged.items()}
    return {name: float(value) for name, value in found.items()}


def of_features(
    x: Tensor, y: Tensor, head: nn.Linear | None = None, *, unbiased: bool
) -> dict[str, Tensor]:
    """Metrics of a batch and, with a head, of its classifier after the step.

    Averages take the unbiased variance of each class.
    """
    w, b = x.new_ones(CLASSES, x.shape[1]), x.new_ones(CLASSES)
    if head is not None:
        w, b = head.weight.detach().double(), head.bias.detach().double()
    state, out = {"x": x, "y": y, "w": w, "b": b, "ood": x}, dict[str, Tensor]()
    metrics_public.moments(state, out)
    if unbiased:
        counts = state["counts"]
        state["squares"] = state["squares"] * counts / (counts - 1).clamp(min=1)
        state["variances"] = state["squares"] / counts
    parts = [metrics_public.geometry, metrics_public.cdnv, metrics_public.spectra]
    if head is not None and not unbiased:
        parts += [metrics_public.covariances, metrics_public.decisions]
    for part in parts:
        part(state, out)
    of_classifier = {name for name in out if name[:3] == "nc3" or "weight" in name}
    left_out = of_classifier if head is None else set()
    return {n: v for n, v in out.items() if n[:3] != "nc5" and n not in left_out}


def collapse(feats: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The seven metrics by their definitions, in two passes, in the dtype of the features."""
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
    """Largest relative error in the first line of the file; zero if nothing was logged.

    Raises:
        LookupError: a value has no truth.
    """
    if found is None:
        return 0.0
    with found.open() as file:
        record = json.loads(file.readline())
    values = {n.removeprefix("train/"): value for n, value in record.items() if n not in OWN}
    if unknown := sorted(values.keys() - exact.keys()):
        raise LookupError(f"Expected a truth of every value but there is none of {unknown}.")
    gaps = [abs(value - exact[name]) / (abs(exact[name]) or 1.0) for name, value in values.items()]
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


def file_of(owner: object) -> Path:
    """A log file that is deleted with its owner."""
    folder = tempfile.mkdtemp(prefix="ncfast-bench-")
    weakref.finalize(owner, shutil.rmtree, folder, True)
    return Path(folder) / "metrics.jsonl"


def tracked(inputs: Inputs, **options: Any) -> Call:
    loop = Loop(inputs)
    path = file_of(loop)
    if inputs["layers"]:
        options |= {"layers": list(inputs["layers"]), "pool": "gap"}
    # The time of other contestants must not make its records old.
    tracker = ncfast.Tracker(
        loop.model,
        num_classes=CLASSES,
        sinks=[path],
        flush_seconds=60,
        on_sigterm=False,
        **options,
    )

    def after(loss: Tensor, logits: Tensor, feats: Tensor, labels: Tensor) -> None:
        tracker.step(labels=labels)

    return _logged(inputs, loop, after, tracker.flush, path)


def by_items(inputs: Inputs, values: Callable[..., dict[str, Tensor]]) -> Call:
    """As in many loops: numbers go to the host at every step, as one line of JSON."""
    loop = Loop(inputs)
    path = file_of(loop)
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
    Contestant(
        "ncfast tracker, default set of nine", "ncfast", partial(tracked, metrics="default")
    ),
    Contestant("the steps alone, nothing logged", "baseline", alone),
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
