"""rnc1.max, the relative within-class variability, from one call of `ncfast.rnc1`.

`rnc1.call` compares a small call with an operator that computes nothing. It runs only if named.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

import ncfast
from ncfast.benchmarks import availability
from ncfast.benchmarks.operations import class_moments
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation
from ncfast.benchmarks.samples import classes, error_of_found, relative_error

QUICK: list[dict[str, Any]] = [
    {"N": 100, "D": 200, "K": 10, "dtype": "float32"},
    {"N": 20_000, "D": 512, "K": 10, "dtype": "float32", "spread": 1e-5},
]
FULL: list[dict[str, Any]] = [
    {"N": 100, "D": 200, "K": 10, "dtype": "float32"},
    {"N": 1000, "D": 200, "K": 10, "dtype": "float32"},
    {"N": 10_000, "D": 512, "K": 10, "dtype": "float32"},
    {"N": 100_000, "D": 512, "K": 100, "dtype": "float32"},
    {"N": 100_000, "D": 512, "K": 10, "dtype": "float32", "spread": 1e-5},
    {"N": 100_000, "D": 512, "K": 100, "dtype": "bfloat16"},
]


def cases(quick: bool) -> list[Case]:
    """The bytes and operations of the moments, without writing the means."""
    found = [class_moments.describe(sizes, quick) for sizes in (QUICK if quick else FULL)]
    return [
        replace(case, bytes=case.bytes - 8 * int(case.sizes["K"]) * int(case.sizes["D"]))
        for case in found
    ]


def of_moments(moments: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tr(Sigma_W) / max norm(x)^2."""
    trace = moments["within_ss"].sum() / moments["counts"].sum()
    return {"rnc1.max": trace / moments["norm_max"] ** 2}


def truth(inputs: Inputs) -> dict[str, Tensor]:
    """From the float64 moments."""
    return of_moments(class_moments.truth(inputs))


def ours(inputs: Inputs, backend: str) -> Call:
    feats, labels, k = inputs["feats"], inputs["labels"], inputs["k"]
    return lambda: {"rnc1.max": ncfast.rnc1(feats, labels, num_classes=k, backend=backend)}


def reduced(contestant: Contestant) -> Contestant:
    """A function of `plain.moments`, and RNC1 from its result."""

    def prepare(inputs: Inputs) -> Call:
        call = contestant.prepare(inputs)
        return lambda: of_moments(call())

    return replace(contestant, prepare=prepare)


CONTESTANTS = [
    *availability.backends(lambda name: partial(ours, backend=name)),
    *(reduced(each) for each in class_moments.CONTESTANTS if each.kind != "ncfast"),
]

OPERATION = Operation("rnc1", cases, classes, truth, relative_error, CONTESTANTS)


@cache
def empty_operator() -> torch.library.CustomOpDef:
    """A torch operator that computes nothing, for the cost of a call."""
    return torch.library.custom_op(
        "ncfast_bench::empty",
        lambda x: x.new_empty(()),
        mutates_args=(),
        schema="(Tensor x) -> Tensor",
    )


def nothing(inputs: Inputs) -> Call:
    feats, empty = inputs["feats"], empty_operator()

    def call() -> dict[str, Tensor]:
        empty(feats)
        return {}

    return call


def small(quick: bool) -> list[Case]:
    sizes = {"N": 1000, "D": 200, "K": 10, "dtype": "float32"}
    return [class_moments.describe(sizes, quick)]


CALL = replace(
    OPERATION,
    name="rnc1.call",
    cases=small,
    error=error_of_found,
    contestants=[
        *(each for each in CONTESTANTS if each.kind == "ncfast"),
        Contestant("an operator that does nothing", "baseline", nothing),
    ],
    when_named=True,
)
