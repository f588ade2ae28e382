"""Collapse metrics tier by tier; each tier includes the cheaper ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

import ncfast
from ncfast.benchmarks import availability
from ncfast.benchmarks.plain import metrics_tiers
from ncfast.benchmarks.plain import moments as plain
from ncfast.benchmarks.plain.metrics_matrices import matrices
from ncfast.benchmarks.plain.metrics_public import public
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation
from ncfast.benchmarks.samples import classes

BUDGET = 1e-2  # float32 Gram matrices of many classes are that far off
FOREIGN_ROWS = 2000
PUBLIC_CLASSES = 1000  # beyond, the loops of the whole suite take minutes
QUICK: dict[str, list[dict[str, Any]]] = {
    "lite": [{"N": 20_000, "D": 512, "K": 100, "spread": 0.5}],
    "standard": [{"N": 20_000, "D": 512, "K": 100, "spread": 0.5}],
    "full": [{"N": 4000, "D": 128, "K": 20, "spread": 0.5}],
}
FULL: dict[str, list[dict[str, Any]]] = {
    "lite": [
        {"N": 1000, "D": 200, "K": 10, "spread": 0.5},
        {"N": 50_000, "D": 512, "K": 100, "spread": 0.5},
        {"N": 50_000, "D": 512, "K": 1000, "spread": 0.5},
        {"N": 50_000, "D": 512, "K": 100, "spread": 1e-5},
    ],
    "standard": [
        {"N": 1000, "D": 200, "K": 10, "spread": 0.5},
        {"N": 50_000, "D": 512, "K": 100, "spread": 0.5},
        {"N": 50_000, "D": 512, "K": 1000, "spread": 0.5},
        {"N": 50_000, "D": 512, "K": 100, "spread": 1e-5},
    ],
    "full": [
        {"N": 1000, "D": 200, "K": 10, "spread": 0.5},
        {"N": 20_000, "D": 512, "K": 10, "spread": 0.5},
        {"N": 20_000, "D": 512, "K": 100, "spread": 0.5},
        {"N": 20_000, "D": 512, "K": 100, "spread": 2.0},
        {"N": 10_000, "D": 512, "K": 500, "spread": 0.5},
    ],
}


def cases(quick: bool, tier: str) -> list[Case]:
    """One read of features, labels, classifier and foreign features; decompositions not counted."""
    found = []
    for sizes in (QUICK if quick else FULL)[tier]:
        n, d, k = sizes["N"], sizes["D"], sizes["K"]
        flops = 8 * n * d + 20 * k * d
        flops += 0 if tier == "lite" else 8 * k * k * d
        # the scatter's half, decisions by means and by classifier, pairs and margins
        flops += n * d * d + 4 * n * k * d + 4 * k * k * d if tier == "full" else 0
        read = 4 * (n * d + k * (d + 1) + FOREIGN_ROWS * d) + 8 * n
        about = sizes | {"dtype": "float32"}
        found.append(Case(about, bytes=read, flops=flops, budget=BUDGET, quick=quick))
    return found


def make(case: Case, seed: int, device: torch.device) -> Inputs:
    """Classes, a classifier close to their means, and features from elsewhere."""
    inputs = classes(case, seed, device)
    generator = torch.Generator(device).manual_seed(seed + 1)
    drawn: dict[str, Any] = {"generator": generator, "device": device}
    k, d = inputs["centres"].shape
    inputs["weight"] = inputs["centres"] + 0.1 * torch.randn(k, d, **drawn)
    inputs["bias"] = torch.randn(k, **drawn)
    inputs["ood"] = torch.randn(FOREIGN_ROWS, d, **drawn)
    return inputs


def ours(inputs: Inputs, tier: str, backend: str) -> Call:
    feats, labels, weight, bias, ood = _given(inputs)
    return lambda: ncfast.collapse_metrics(
        feats, labels, weight=weight, bias=bias, ood_feats=ood, which=tier, backend=backend
    )


def whole(inputs: Inputs, function: Callable[..., Any], dtype: torch.dtype) -> Call:
    """Everything a plain suite computes."""
    given = _given(inputs)
    return lambda: function(*(t.to(dtype) if t.is_floating_point() else t for t in given))


def cheap(inputs: Inputs, tier: str, name: str, batch: int, dtype: torch.dtype) -> Call:
    """Some form of `plain.moments`, then formulas."""
    feats, labels, weight, bias, ood = _given(inputs)
    formulas = getattr(metrics_tiers, tier)

    def call() -> dict[str, Tensor]:
        found = plain.REFERENCES[name](feats, labels, inputs["k"], batch, dtype)
        return formulas(found, *(t.to(dtype) for t in (weight, bias, ood)))

    return call


def truth(inputs: Inputs, tier: str) -> dict[str, float]:
    """The plain formulas in float64; those of the public suite where there is more than moments."""
    if tier == "full":
        found = whole(inputs, public, torch.float64)()
    else:
        found = cheap(inputs, tier, "two_pass", 4096, torch.float64)()
    return {name: float(value) for name, value in found.items()}


def error(found: Mapping[str, Tensor], expected: Mapping[str, float]) -> float:
    """Largest relative difference of a metric."""
    worst = 0.0
    for name, value in expected.items():
        gap = abs(float(found[name]) - value) / (abs(value) or 1.0)
        worst = max(worst, gap) if math.isfinite(gap) else math.nan
        if math.isnan(worst):
            break
    return worst


def _given(inputs: Inputs) -> tuple[Tensor, ...]:
    return tuple(inputs[name] for name in ("feats", "labels", "weight", "bias", "ood"))


def _of_moments(tier: str) -> list[Contestant]:
    wide, narrow = torch.float64, torch.float32
    chosen: list[tuple[str, Any, str, int, torch.dtype]] = [
        ("index_add_ of shifted rows, float32, 512 rows", "torch", "pivoted", 512, narrow),
        ("two passes, float32, 512 rows", "torch", "two_pass", 512, narrow),
        ("two passes, float64, 512 rows", "torch", "two_pass", 512, wide),
        ("two passes, float64, whole", "torch", "two_pass", 1 << 62, wide),
        ("published, one-hot masks, float32, 128 rows", "public", "one_hot", 128, narrow),
        ("published, E[x^2] - E[x]^2, float32, 512 rows", "public", "published", 512, narrow),
    ]
    return [
        Contestant(label, kind, partial(cheap, tier=tier, name=name, batch=batch, dtype=dtype))
        for label, kind, name, batch, dtype in chosen
    ]


def _suites() -> list[Contestant]:
    few = availability.within(PUBLIC_CLASSES, lambda case: int(case.sizes["K"]), "K")
    forms = {"torch": ("whole matrices", matrices), "public": ("published, by minibatches", public)}
    return [
        Contestant(
            f"{label}, {str(dtype).removeprefix('torch.')}",
            kind,  # type: ignore[arg-type]
            partial(whole, function=function, dtype=dtype),
            few,
        )
        for kind, (label, function) in forms.items()
        for dtype in (torch.float32, torch.float64)
    ]


def _operation(tier: str) -> Operation:
    contestants = availability.backends(lambda name: partial(ours, tier=tier, backend=name))
    contestants += _suites() if tier == "full" else _of_moments(tier)
    return Operation(
        f"metrics.{tier}",
        partial(cases, tier=tier),
        make,
        partial(truth, tier=tier),
        error,
        contestants,
    )


TIERS = [_operation(tier) for tier in ("lite", "standard", "full")]
