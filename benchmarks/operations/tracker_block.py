"""Log points of a tracker, a block of them at once: from class moments to the numbers of a record.

The figures count a whole block; a log point costs a call's time over ``points``. With ``added`` a
metric is evaluated beside the others that is a plain function of the moments, as CONTRIBUTING says
to add one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import ncfast
from ncfast.benchmarks import availability
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation
from ncfast.benchmarks.samples import classes
from ncfast.metrics.catalogue import METRICS, OF_MOMENTS, resolve
from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import Metric, evaluate
from ncfast.ops.states import Layout, pack

QUICK: list[dict[str, Any]] = [
    {"points": 16, "K": 10, "D": 200, "metrics": "standard", "spread": 0.5},
    {"points": 16, "K": 10, "D": 200, "metrics": "default", "spread": 0.5},
]
FULL: list[dict[str, Any]] = [
    {"points": points, "K": k, "D": d, "metrics": metrics, "spread": 0.5} | more
    for points, k, d in ((128, 10, 200), (16, 100, 512))
    for metrics, more in (
        ("standard", {}),
        ("standard", {"added": 1}),
        ("default", {}),
        ("all of the moments", {}),
    )
]
ADDED = Metric(
    lambda inputs: inputs.moments.class_variances.amax(-1), "max_c V_c", "", "[0, inf)", ""
)


def cases(quick: bool) -> list[Case]:
    """One read of the moments and the products of the means."""
    found = []
    for sizes in QUICK if quick else FULL:
        points, k, d = sizes["points"], sizes["K"], sizes["D"]
        read, flops = 8 * points * (k * (d + 2) + 2), 2 * points * k * k * d
        found.append(Case(sizes, bytes=read, flops=flops, quick=quick))
    return found


def make(case: Case, seed: int, device: torch.device) -> Inputs:
    """Packed moments of as many batches of 10 K rows, and the ids."""
    points, k, d = (int(case.sizes[name]) for name in ("points", "K", "D"))
    batch = Case(dict(case.sizes) | {"N": 10 * k, "dtype": "float32"}, 0, 0)
    states = []
    for point in range(points):
        drawn = classes(batch, seed + point, device)
        states.append(pack(ncfast.class_moments(drawn["feats"], drawn["labels"], num_classes=k)))
    names = {"default": tuple(METRICS), "all of the moments": tuple(OF_MOMENTS)}
    which = str(case.sizes["metrics"])
    ids = names[which] if which in names else resolve(which, OF_MOMENTS)
    chosen = {id_: OF_MOMENTS[id_] for id_ in ids}
    if case.sizes.get("added"):
        chosen["nc1.added"] = ADDED
    return {"states": torch.stack(states), "layout": Layout(k, d), "metrics": chosen}


def ours(inputs: Inputs, backend: str) -> Call:
    states, layout, metrics = inputs["states"], inputs["layout"], inputs["metrics"]

    def call() -> dict[str, Tensor]:
        return evaluate(metrics, MetricInputs(layout.unpack(states), backend=backend))

    return call


def batched(inputs: Inputs) -> Call:
    """Six of the metrics as their definitions read, all log points in each operation."""
    states, layout = inputs["states"], inputs["layout"]

    def call() -> dict[str, Tensor]:
        counts, means, within, norm_sum, norm_max = layout.split(states)
        k, total = layout.classes, counts.sum(-1)
        trace = within.sum(-1) / total
        centred = means - means.mean(-2, keepdim=True)
        lengths = centred.norm(dim=-1)
        gram = centred @ centred.mT
        etf = (torch.eye(k, dtype=gram.dtype) - 1 / k) / (k - 1) ** 0.5
        gram = gram / torch.linalg.matrix_norm(gram, keepdim=True)
        return {
            "rnc1.max": trace / norm_max**2,
            "rnc1.mean": trace / (norm_sum / total) ** 2,
            "nc1.quotient": trace / (lengths.square().sum(-1) / k),
            "nc2.condition": torch.linalg.cond(means),
            "nc2.equinorm": lengths.std(-1, correction=0) / lengths.mean(-1),
            "nc2.etf_error": torch.linalg.matrix_norm(gram - etf),
        }

    return call


def truth(inputs: Inputs) -> dict[str, np.ndarray[Any, Any]]:
    """The same six by NumPy, one log point after another."""
    found: dict[str, list[float]] = {}
    for state in inputs["states"]:
        counts, means, within, norm_sum, norm_max = (
            part.numpy() for part in inputs["layout"].split(state)
        )
        trace = within.sum() / counts.sum()
        centred = means - means.mean(0)
        lengths = np.sqrt((centred**2).sum(1))
        gram, k = centred @ centred.T, len(means)
        etf = (np.eye(k) - 1 / k) / np.sqrt(k - 1)
        for id_, value in {
            "rnc1.max": trace / norm_max**2,
            "rnc1.mean": trace / (norm_sum / counts.sum()) ** 2,
            "nc1.quotient": trace / (lengths**2).mean(),
            "nc2.condition": np.linalg.cond(means),
            "nc2.equinorm": lengths.std() / lengths.mean(),
            "nc2.etf_error": np.linalg.norm(gram / np.linalg.norm(gram) - etf),
        }.items():
            found.setdefault(id_, []).append(float(value))
    return {id_: np.array(values) for id_, values in found.items()}


def error(found: dict[str, Tensor], expected: dict[str, np.ndarray[Any, Any]]) -> float:
    """Largest relative difference of a metric that both have, at any log point."""
    gaps = [np.abs(found[id_].numpy() / expected[id_] - 1).max() for id_ in found.keys() & expected]
    return float(max(gaps))


OPERATION = Operation(
    "tracker_block",
    cases,
    make,
    truth,
    error,
    [
        *availability.backends(lambda name: lambda inputs: ours(inputs, name)),
        Contestant("six metrics in batched torch, float64", "torch", batched),
    ],
)
