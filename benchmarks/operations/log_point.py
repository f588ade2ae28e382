"""A log point of the networks of figure 2: metrics of both splits, as numbers on the host.

The authors log fewer values than ncfast. Each value is compared with float64. It runs only if
named, and needs MNIST (NCFAST_DATA).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import ncfast
from ncfast.benchmarks import availability
from ncfast.benchmarks.operations import replica_step
from ncfast.benchmarks.plain import metrics_public
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation

FULL: dict[str, Any] = {"data": "mnist", "model": "mlp", "replicas": 8}
Records = list[dict[str, float]]


def cases(quick: bool) -> list[Case]:
    return [describe(FULL | {"replicas": 2} if quick else FULL, quick)]


def describe(sizes: dict[str, Any], quick: bool) -> Case:
    """Neither bytes nor operations are counted; the features are float32."""
    return Case(sizes, bytes=0, flops=0, promise=1e-4, budget=1e-4, quick=quick)


def make(case: Case, seed: int, device: torch.device) -> Inputs:
    return replica_step.make(Case({**case.sizes, "steps": 0}, bytes=0, flops=0), seed, device)


def truth(inputs: Inputs) -> Records:
    """The values in float64, from the initial weights of a network."""
    from ncfast.experiments.models import build_model

    records = []
    for config in inputs["configs"]:
        model = build_model(config, inputs["train"]).to(inputs["device"]).double()
        weights = [parameter.detach() for parameter in model.parameters()]
        last, previous = weights[-2], weights[-4]
        found = {
            "weight.norm": torch.stack([each.norm() for each in weights]).norm(),
            "sum of norms": torch.stack([each.norm() for each in weights]).sum(),
            # there are no plain formulas of these two
            "balancedness": ncfast.balancedness(last, previous),
            "balancedness.absolute": ncfast.balancedness(last, previous, relative=False),
        }
        for name in ("train", "test"):
            of_split = split_truth(model, inputs[name])
            found |= {f"{name}/{metric}": value for metric, value in of_split.items()}
        records.append({name: float(value) for name, value in found.items()})
    return records


@torch.no_grad()
def split_truth(model: Any, split: Any) -> dict[str, Tensor]:
    """Accuracy, squared error, shape of the features, and every metric of the plain suite."""
    x, y = split.batch(slice(None))
    feats = model.features(x.double())
    output, target = model.classifier(feats), torch.eye(split.num_classes, device=y.device)[y]
    w, b = (value.detach() for value in model.classifier.parameters())
    norms = feats.norm(dim=1)
    means = torch.stack([feats[y == c].mean(0) for c in range(split.num_classes)])
    return metrics_public.public(feats, y, w, b, feats) | {
        "within_trace": (feats - means[y]).square().sum(1).mean(),
        "norm_ratio": norms.max() / norms.mean(),
        "common_offset": feats.mean(0).norm() / norms.mean(),
        "dead_units": (feats == 0).all(0).double().mean(),
        "accuracy": (output.argmax(1) == y).double().mean(),
        "loss": (output - target).square().sum() / len(y),
    }


def error(found: Records, exact: Records) -> float:
    """Largest relative error of a value.

    Raises:
        LookupError: a value has no truth.
    """
    worst = 0.0
    for record, expected in zip(found, exact, strict=True):
        if unknown := sorted(record.keys() - expected.keys()):
            raise LookupError(f"Expected a truth of every value but there is none of {unknown}.")
        gaps = [abs(v - expected[n]) / (abs(expected[n]) or 1.0) for n, v in record.items()]
        worst = max(worst, *gaps) if all(map(math.isfinite, gaps)) else math.nan
    return worst


def ours(inputs: Inputs, together: bool) -> Call:
    """All replicas in one program, or each in its own."""
    from ncfast.experiments.training.measure import measure_split, measure_weights, to_numbers
    from ncfast.experiments.training.program import ReplicaProgram

    configs = inputs["configs"]
    groups = [configs] if together else [[config] for config in configs]
    programs = [ReplicaProgram(group, inputs["train"], inputs["device"]) for group in groups]

    def log(program: ReplicaProgram) -> Records:
        records = [measure_weights(program, r) for r in range(len(program.configs))]
        for name in ("train", "test"):
            found = measure_split(program, inputs[name], name)
            records = [{**one, **more} for one, more in zip(records, found, strict=True)]
        return to_numbers(records)

    return lambda: [record for program in programs for record in log(program)]


def theirs(inputs: Inputs) -> Call:
    from ncfast.benchmarks.plain.released import TheirWay

    ways = [TheirWay(each, inputs["train"], inputs["test"]) for each in inputs["configs"]]
    return lambda: [way.log_point() for way in ways]


def in_a_sweep(inputs: Inputs) -> Call:
    return ours(inputs, True)


def alone(inputs: Inputs) -> Call:
    return ours(inputs, False)


OPERATION = Operation(
    "log_point",
    cases,
    make,
    truth,
    error,
    [
        Contestant("ncfast, replicas of a sweep", "ncfast", in_a_sweep, replica_step.experiments),
        Contestant("ncfast, one run after another", "ncfast", alone, replica_step.experiments),
        Contestant(
            "the authors' way, one run after another",
            "public",
            theirs,
            availability.package("PIL"),
        ),
    ],
    when_named=True,
)
