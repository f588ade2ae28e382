"""Distances to the k nearest other rows of every row.

`knn.grid` has more shapes, and `knn.engines` compares the engines. Both run only if named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncfast.benchmarks import availability
from ncfast.benchmarks.plain import neighbors as plain
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation
from ncfast.information.neighbors import knn

K = 5
CHECKED_ROWS = 500
QUICK: list[dict[str, Any]] = [
    {"N": 3000, "D": 2, "k": K},
    {"N": 3000, "D": 20, "k": K},
    {"N": 3000, "D": 20, "k": K, "spread": 1e-5},
    {"N": 3000, "D": 1, "k": K, "values": 3},
]
FULL: list[dict[str, Any]] = [
    *({"N": 5000, "D": d, "k": K} for d in (2, 5, 10, 20, 512)),
    *({"N": 20_000, "D": d, "k": K} for d in (2, 5, 10, 20)),
    {"N": 60_000, "D": 5, "k": K},
    *({"N": 20_000, "D": 20, "k": K, "spread": spread} for spread in (1e-3, 1e-5)),
    *({"N": 40_000, "D": 1, "k": K, "values": values} for values in (1, 2, 6)),
    {"N": 40_000, "D": 3, "k": K, "values": 4},
]
ROWS = (1000, 5000, 20_000, 60_000)
GRID: list[dict[str, Any]] = [{"N": n, "D": d, "k": K} for n in ROWS for d in (2, 5, 10, 20)]
ENGINE_GRID: list[dict[str, Any]] = [
    *({"N": n, "D": d, "k": K} for n in ROWS for d in (1, 2, 3, 4, 5, 6, 8)),
    *({"N": n, "D": d, "k": K} for n in (5000, 20_000) for d in (64, 256, 512, 1024)),
]
# Numbers of columns that an engine is meant for.
COLUMNS = {
    "direct": range(1, 1 << 20),
    "tree": range(1, 9),
    "scipy": range(1, 9),
    "faiss": range(64, 1 << 20),
    "gemm": range(64, 1 << 20),
}
# Largest N D, and numbers of pairs of rows, that a contestant handles within about a second.
TREES = {"BallTree": 150_000, "KDTree": 150_000, "cKDTree": 400_000}
PRODUCTS, DIFFERENCES = 1 << 30, 1 << 27


def cases(quick: bool) -> list[Case]:
    return [describe(sizes, quick) for sizes in (QUICK if quick else FULL)]


def grid(quick: bool) -> list[Case]:
    return [describe(sizes, quick) for sizes in (QUICK[:2] if quick else GRID)]


def engine_grid(quick: bool) -> list[Case]:
    return [describe(sizes, quick) for sizes in (QUICK[:1] if quick else ENGINE_GRID)]


def describe(sizes: dict[str, Any], quick: bool) -> Case:
    """The operations are products of all pairs; a tree skips most of them."""
    n, d, k = sizes["N"], sizes["D"], sizes["k"]
    moved = 8 * n * d + 8 * n * k
    return Case(sizes, bytes=moved, flops=2 * n * n * d, promise=1e-12, quick=quick)


def make(case: Case, seed: int, device: torch.device) -> Inputs:
    """Standard normal rows. With ``spread`` they form ten classes around means of norm one.

    With ``values`` each column holds this number of different integers.
    """
    n, d = int(case.sizes["N"]), int(case.sizes["D"])
    draw = {"generator": torch.Generator(device).manual_seed(seed), "dtype": torch.float64}
    rows = torch.randn(n, d, device=device, **draw)
    if "values" in case.sizes:
        rows = torch.randint(int(case.sizes["values"]), (n, d), device=device, **draw)
    if "spread" in case.sizes:
        means = torch.nn.functional.normalize(torch.randn(10, d, device=device, **draw), dim=1)
        rows *= float(case.sizes["spread"]) / d**0.5
        rows += means[torch.arange(n, device=device) % 10]
    return {"rows": rows, "k": int(case.sizes["k"])}


def sample(count: int) -> Tensor:
    """Numbers of the rows whose neighbours are compared."""
    return torch.arange(0, count, max(1, count // CHECKED_ROWS))


def truth(inputs: Inputs) -> Tensor:
    """The nearest distances of the compared rows, by direct differences in float64."""
    rows = inputs["rows"].cpu()
    gaps = [(rows - rows[i]).square().sum(1).sqrt().sort().values for i in sample(len(rows))]
    return torch.stack(gaps)[:, 1 : inputs["k"] + 1]


def error(found: Any, exact: Tensor) -> float:
    """Relative error of all distances of the compared rows."""
    distances = torch.as_tensor(found).cpu().double()
    size = exact.norm()
    return float((distances[sample(len(distances))] - exact).norm() / (size if size > 0 else 1.0))


def ours(inputs: Inputs, backend: str) -> Call:
    return lambda: knn(inputs["rows"], inputs["k"], backend=backend).distances


def library(inputs: Inputs, function: Callable[[np.ndarray, int], np.ndarray]) -> Call:
    rows = inputs["rows"].cpu().numpy()
    return lambda: function(rows, inputs["k"])


def direct_torch(inputs: Inputs) -> Call:
    """Cdist by differences, without cancellation, in float64."""
    rows, k = inputs["rows"], inputs["k"]

    def call() -> Tensor:
        parts = [
            torch.cdist(part, rows, compute_mode="donot_use_mm_for_euclid_dist")
            .topk(k + 1, largest=False)
            .values[:, 1:]
            for part in rows.split(1024)
        ]
        return torch.cat(parts)

    return call


def pairs(case: Case) -> int:
    """N squared."""
    return int(case.sizes["N"]) ** 2


def tree(name: str) -> availability.Available:
    """Whether a tree is fast enough, and installed."""
    size = availability.within(
        TREES[name], lambda case: int(case.sizes["N"]) * int(case.sizes["D"]), "N D, for a tree,"
    )
    if name == "cKDTree":
        return size
    installed = availability.package("sklearn")
    return lambda case: size(case) or installed(case)


def engine(name: str) -> availability.Available:
    """Whether an engine of ncfast can run here."""
    from ncfast.information.neighbors import neighbor_backends

    def reason(case: Case) -> str | None:
        status = neighbor_backends()[name]
        return None if status.available else status.reason

    return reason


def suited(name: str) -> availability.Available:
    """Whether an engine can run here and is meant for the number of columns."""
    able, columns = engine(name), COLUMNS[name]

    def reason(case: Case) -> str | None:
        if int(case.sizes["D"]) not in columns:
            return f"not meant for {case.sizes['D']} columns"
        return able(case)

    return reason


def _few(limit: int, package: str | None = None) -> availability.Available:
    """Whether a contestant is fast enough for all pairs of rows, and installed."""
    size = availability.within(limit, pairs, "pairs of rows")
    if package is None:
        return size
    installed = availability.package(package)
    return lambda case: size(case) or installed(case)


CONTESTANTS = [
    Contestant("ncfast", "ncfast", partial(ours, backend="auto"), backend="auto"),
    Contestant(
        "ncfast direct", "ncfast", partial(ours, backend="direct"), engine("direct"), "direct"
    ),
    *(
        Contestant(
            f"scikit-learn {name}" if name != "cKDTree" else "SciPy cKDTree",
            "library",
            partial(library, function=plain.KNN[name]),
            tree(name),
        )
        for name in ("cKDTree", "BallTree", "KDTree")
    ),
    Contestant(
        "scikit-learn brute",
        "library",
        partial(library, function=plain.KNN["sklearn brute"]),
        _few(PRODUCTS, "sklearn"),
    ),
    Contestant(
        "FAISS flat, float32",
        "library",
        partial(library, function=plain.KNN["faiss-cpu"]),
        _few(PRODUCTS, "faiss"),
    ),
    Contestant(
        "torch cdist + topk, float32",
        "torch",
        partial(library, function=plain.KNN["torch f32"]),
        _few(PRODUCTS),
    ),
    Contestant(
        "torch cdist by differences + topk, float64", "torch", direct_torch, _few(DIFFERENCES)
    ),
]

OPERATION = Operation("knn", cases, make, truth, error, CONTESTANTS)
GRID_OPERATION = replace(OPERATION, name="knn.grid", cases=grid, when_named=True)
ENGINES = replace(
    OPERATION,
    name="knn.engines",
    cases=engine_grid,
    contestants=[
        Contestant(f"ncfast {name}", "ncfast", partial(ours, backend=name), suited(name), name)
        for name in COLUMNS
    ],
    when_named=True,
)
