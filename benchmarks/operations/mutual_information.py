"""Mutual information of two continuous variables by KSG-1, in nats.

`mutual_information.grid` has more sizes, and `mutual_information.engines` compares the engines.
Both run only if named.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import ncfast
from ncfast.benchmarks import availability
from ncfast.benchmarks.operations import knn
from ncfast.benchmarks.plain import brute
from ncfast.benchmarks.plain import neighbors as plain
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation

K, RHO = 5, 0.9
Values = dict[str, float]
QUICK: list[dict[str, Any]] = [{"N": 2000, "columns": d, "k": K} for d in (1, 5)]
FULL: list[dict[str, Any]] = [
    *({"N": 5000, "columns": d, "k": K} for d in (1, 2, 5, 10)),
    *({"N": 20_000, "columns": d, "k": K} for d in (1, 2, 5)),
    {"N": 10_000, "columns": 10, "k": K},
]
GRID: list[dict[str, Any]] = [
    {"N": n, "columns": d, "k": K}
    for n in knn.ROWS
    for d in (1, 2, 5, 10)
    if (n, d) != (60_000, 10)  # every tree would take minutes per call
]
ENGINE_GRID: list[dict[str, Any]] = [
    {"N": n, "columns": d, "k": K} for n in knn.ROWS for d in (1, 2, 3, 4)
]
# N times columns above which trees take a minute.
TREES = {"cKDTree": 120_000, "KDTree": 250_000, "cKDTree + KDTree threads": 250_000}
PAIRS = 1 << 28  # number of pairs of rows above which all distances take seconds
NAMES = {
    "cKDTree": "SciPy cKDTree",
    "KDTree": "scikit-learn KDTree, one thread (NPEET's way)",
    "cKDTree + KDTree threads": "SciPy radii, scikit-learn counts in threads",
}


def cases(quick: bool) -> list[Case]:
    return [describe(sizes, quick) for sizes in (QUICK if quick else FULL)]


def grid(quick: bool) -> list[Case]:
    return [describe(sizes, quick) for sizes in (QUICK if quick else GRID)]


def engine_grid(quick: bool) -> list[Case]:
    return [describe(sizes, quick) for sizes in (QUICK[:1] if quick else ENGINE_GRID)]


def describe(sizes: dict[str, Any], quick: bool) -> Case:
    """The operations are differences and maxima of all pairs; a tree skips most of them."""
    n, d = sizes["N"], 2 * sizes["columns"]
    return Case(sizes, bytes=8 * n * d, flops=2 * n * n * d, promise=1e-9, budget=1e-6, quick=quick)


def make(case: Case, seed: int, device: torch.device) -> Inputs:
    """Gaussian columns, correlated by 0.9 in pairs."""
    shape = (2, int(case.sizes["N"]), int(case.sizes["columns"]))
    draw = torch.Generator(device).manual_seed(seed)
    x, noise = torch.randn(shape, generator=draw, dtype=torch.float64, device=device)
    return {"x": x, "y": RHO * x + math.sqrt(1 - RHO**2) * noise, "k": int(case.sizes["k"])}


def truth(inputs: Inputs) -> Values:
    """The estimates from all distances, one for each joint distance."""
    x, y, k = inputs["x"].cpu(), inputs["y"].cpu(), inputs["k"]
    return {"linf": brute.ksg(x, y, k, "linf"), "l2max": brute.ksg(x, y, k, "l2")}


def error(found: Values, exact: Values) -> float:
    """Relative error of the estimator that was computed."""
    return max(abs(value / exact[name] - 1) for name, value in found.items())


def ours(inputs: Inputs, metric: Any, stderr: bool, backend: str = "auto") -> Call:
    def call() -> Values:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ncfast.EstimateWarning)
            found = ncfast.mutual_information(
                inputs["x"],
                inputs["y"],
                k=inputs["k"],
                metric=metric,
                preprocess=None,
                stderr=stderr,
                backend=backend,
            )
        return {metric: found.value}

    return call


def by_trees(inputs: Inputs, function: Callable[..., Any]) -> Call:
    x, y, k = inputs["x"].cpu().numpy(), inputs["y"].cpu().numpy(), inputs["k"]

    def call() -> Values:
        from scipy.special import digamma

        _, counts = function(x, y, k)
        terms = sum(digamma(count + 1).mean() for count in counts)
        return {"linf": float(digamma(k) + digamma(len(x)) - terms)}

    return call


def by_torch(inputs: Inputs) -> Call:
    """All distances by cdist, in blocks of rows, in float64."""
    x, y, k = inputs["x"], inputs["y"], inputs["k"]

    def call() -> Values:
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        for one, two in zip(x.split(512), y.split(512), strict=True):
            first, second = (torch.cdist(a, b, p=math.inf) for a, b in ((one, x), (two, y)))
            radius = torch.maximum(first, second).topk(k + 1, largest=False).values[:, -1:]
            for gap in (first, second):
                total += torch.special.digamma((gap < radius).sum(1).double()).sum()
        psi = torch.special.digamma(torch.tensor([k, len(x)], dtype=torch.float64)).sum()
        return {"linf": float(psi - total.cpu() / len(x))}

    return call


def _fits(name: str) -> availability.Available:
    size = availability.within(
        TREES[name], lambda case: int(case.sizes["N"]) * int(case.sizes["columns"]), "N x columns"
    )
    if name == "cKDTree":
        return size
    installed = availability.package("sklearn")
    return lambda case: size(case) or installed(case)


CONTESTANTS = [
    Contestant("ncfast, maximum norm", "ncfast", partial(ours, metric="linf", stderr=False)),
    Contestant("ncfast, default norm", "ncfast", partial(ours, metric="l2max", stderr=False)),
    Contestant(
        "ncfast, maximum norm, with standard error",
        "ncfast",
        partial(ours, metric="linf", stderr=True),
    ),
    *(
        Contestant(NAMES[name], "library", partial(by_trees, function=function), _fits(name))
        for name, function in plain.KSG.items()
    ),
    Contestant(
        "torch cdist, float64",
        "torch",
        by_torch,
        availability.within(PAIRS, lambda case: int(case.sizes["N"]) ** 2, "pairs of rows"),
    ),
]

OPERATION = Operation("mutual_information", cases, make, truth, error, CONTESTANTS)
GRID_OPERATION = replace(OPERATION, name="mutual_information.grid", cases=grid, when_named=True)
ENGINES = replace(
    OPERATION,
    name="mutual_information.engines",
    cases=engine_grid,
    contestants=[
        Contestant(
            f"ncfast {name}",
            "ncfast",
            partial(ours, metric="l2max", stderr=False, backend=name),
            knn.engine(name),
            name,
        )
        for name in ("direct", "tree")
    ],
    when_named=True,
)
