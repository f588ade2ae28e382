"""Collapse metrics tier by tier; each tier includes the cheaper ones.

`metrics.suite` is the full tier at N = 50,000 with up to 10,000 classes. It runs only if named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ncfast
from ncfast.benchmarks import availability
from ncfast.benchmarks.plain import metrics_public
from ncfast.benchmarks.plain import moments as plain
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation, anywhere
from ncfast.benchmarks.samples import classes

BUDGET = 1e-2  # the error of float32 Gram matrices of many classes
FOREIGN_ROWS = 2000
FLOATS = ("feats", "weight", "bias", "ood")
# Rank correlations jump where two classes whose values differ by rounding change places.
RANKS = (
    "imbalance.norm_correlation_weight",
    "imbalance.norm_correlation_means",
    "imbalance.nc1_correlation",
)
SWAPPED = 1e-4
MANY_CLASSES = 1000  # beyond, the loops of the public suite take minutes, in float64 hours
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
    "suite": [
        {"N": 50_000, "D": 512, "K": 100, "spread": 0.5},
        {"N": 50_000, "D": 512, "K": 100, "spread": 2.0},
        {"N": 50_000, "D": 512, "K": 10_000, "spread": 0.5},
        {"N": 50_000, "D": 512, "K": 1000, "spread": 0.5},
    ],
}
QUICK["suite"] = QUICK["full"]


class Truth(NamedTuple):
    """Values in float64: what everybody must give, and what ncfast alone knows."""

    plain: dict[str, float]
    ours_alone: dict[str, float]


def cases(quick: bool, tier: str) -> list[Case]:
    """One read of features, labels, classifier and foreign features; decompositions not counted."""
    found = []
    for sizes in (QUICK if quick else FULL)[tier]:
        full = tier in ("full", "suite")
        n, d, k = sizes["N"], sizes["D"], sizes["K"]
        flops = 8 * n * d + 20 * k * d
        flops += 0 if tier == "lite" else 8 * k * k * d
        # the scatter's half, decisions by means and by classifier, pairs and margins
        flops += n * d * d + 4 * n * k * d + 4 * k * k * d if full else 0
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
    which = "full" if tier == "suite" else tier
    return lambda: ncfast.collapse_metrics(
        feats, labels, weight=weight, bias=bias, ood_feats=ood, metrics=which, backend=backend
    )


def whole(inputs: Inputs, function: Callable[..., Any], dtype: torch.dtype) -> Call:
    """All metrics of a plain suite."""
    given = _given(inputs)
    return lambda: function(*(t.to(dtype) if t.is_floating_point() else t for t in given))


def cheap(inputs: Inputs, tier: str, name: str, batch: int, dtype: torch.dtype) -> Call:
    """A function of `plain.moments`, then formulas."""
    feats, labels, weight, bias, ood = _given(inputs)
    formulas = getattr(metrics_public, tier)

    def call() -> dict[str, Tensor]:
        found = plain.REFERENCES[name](feats, labels, inputs["k"], batch, dtype)
        return formulas(found, *(t.to(dtype) for t in (weight, bias, ood)))

    return call


def truth(inputs: Inputs, tier: str) -> Truth:
    """The plain formulas in float64. Metrics without one come from ncfast's reference in float64.

    Plain formulas of many classes take hours, so all metrics then come from the reference.
    """
    wide = {n: v.double() if n in FLOATS else v for n, v in inputs.items()}
    exact = _numbers(ours(wide, tier, "reference")())
    if tier not in ("full", "suite"):
        known = _numbers(cheap(inputs, tier, "two_pass", 4096, torch.float64)())
    elif inputs["k"] <= MANY_CLASSES:
        known = _numbers(whole(inputs, metrics_public.public, torch.float64)())
    else:
        known = {}
    return Truth(known, {name: value for name, value in exact.items() if name not in known})


def error(found: Mapping[str, Tensor], exact: Truth) -> float:
    """Largest relative difference of a metric.

    Raises:
        LookupError: a metric has no truth, or one that has it was not computed.
    """
    expected = exact.plain | exact.ours_alone
    if unknown := found.keys() - expected.keys():
        raise LookupError(
            f"Expected a truth of every metric but there is none of {sorted(unknown)}."
        )
    if missing := exact.plain.keys() - found.keys():
        raise LookupError(
            f"Expected every metric of the plain formulas but {sorted(missing)} are missing."
        )
    gaps = [
        abs(value - expected[n]) / (abs(expected[n]) or 1.0)
        for n, value in _numbers(found).items()
        if not (n in RANKS and abs(value - expected[n]) < SWAPPED)
    ]
    return max(gaps) if all(map(math.isfinite, gaps)) else math.nan


def _numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _given(inputs: Inputs) -> tuple[Tensor, ...]:
    return tuple(inputs[name] for name in ("feats", "labels", *FLOATS[1:]))


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


def _suites(tier: str) -> list[Contestant]:
    few = availability.within(MANY_CLASSES, lambda case: int(case.sizes["K"]), "K")
    wide, narrow = torch.float64, torch.float32
    chosen: list[tuple[str, Any, Callable[..., Any], torch.dtype, availability.Available]] = [
        ("whole matrices, float32", "torch", metrics_public.matrices, narrow, few),
        ("whole matrices, float64", "torch", metrics_public.matrices, wide, few),
        (
            "published, by minibatches, float32",
            "public",
            metrics_public.public,
            narrow,
            anywhere if tier == "suite" else few,
        ),
        ("published, by minibatches, float64", "public", metrics_public.public, wide, few),
    ]
    return [
        Contestant(label, kind, partial(whole, function=function, dtype=dtype), reason)
        for label, kind, function, dtype, reason in chosen
    ]


def _operation(tier: str) -> Operation:
    contestants = availability.backends(lambda name: partial(ours, tier=tier, backend=name))
    contestants += _suites(tier) if tier in ("full", "suite") else _of_moments(tier)
    return Operation(
        f"metrics.{tier}",
        partial(cases, tier=tier),
        make,
        partial(truth, tier=tier),
        error,
        contestants,
        when_named=tier == "suite",
    )


TIERS = [_operation(tier) for tier in ("lite", "standard", "full")]
SUITE = _operation("suite")
