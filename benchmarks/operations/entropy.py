"""Differential entropy by nearest neighbours, in nats. It runs only if named."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import ncfast
from ncfast.benchmarks import availability
from ncfast.benchmarks.operations import knn
from ncfast.benchmarks.plain import brute
from ncfast.benchmarks.plain import neighbors as plain
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation

QUICK: list[dict[str, Any]] = [{"N": 2000, "D": d, "k": knn.K} for d in (2, 10)]
FULL: list[dict[str, Any]] = [{"N": 20_000, "D": d, "k": knn.K} for d in (2, 5, 10, 20)]


def cases(quick: bool) -> list[Case]:
    return [describe(sizes, quick) for sizes in (QUICK if quick else FULL)]


def describe(sizes: dict[str, Any], quick: bool) -> Case:
    """The operations are products of all pairs; a tree skips most of them."""
    n, d = sizes["N"], sizes["D"]
    return Case(sizes, bytes=8 * n * d, flops=2 * n * n * d, promise=1e-9, budget=1e-6, quick=quick)


def truth(inputs: Inputs) -> float:
    """The entropy from all distances."""
    return brute.entropy(inputs["rows"].cpu(), inputs["k"])


def error(found: float, exact: float) -> float:
    return abs(found / exact - 1)


def ours(inputs: Inputs, stderr: bool) -> Call:
    def call() -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ncfast.EstimateWarning)
            return ncfast.entropy(inputs["rows"], k=inputs["k"], stderr=stderr).value

    return call


def plainly(inputs: Inputs, distances: Callable[[np.ndarray, int], np.ndarray]) -> Call:
    """The formula on distances to the k nearest rows."""
    rows, k = inputs["rows"].cpu().numpy(), inputs["k"]

    def call() -> float:
        from scipy.special import digamma

        count, dim = rows.shape
        ball = dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)
        radii = np.log(distances(rows, k)[:, -1])
        return float(digamma(count) - digamma(k) + ball + dim * radii.mean())

    return call


CONTESTANTS = [
    Contestant("ncfast", "ncfast", partial(ours, stderr=False)),
    Contestant("ncfast, with standard error", "ncfast", partial(ours, stderr=True)),
    Contestant(
        "SciPy cKDTree",
        "library",
        partial(plainly, distances=plain.KNN["cKDTree"]),
        knn.tree("cKDTree"),
    ),
    Contestant(
        "scikit-learn brute",
        "library",
        partial(plainly, distances=plain.KNN["sklearn brute"]),
        availability.package("sklearn"),
    ),
]

OPERATION = Operation("entropy", cases, knn.make, truth, error, CONTESTANTS, when_named=True)
