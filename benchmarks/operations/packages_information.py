"""Mutual information by installed packages, against the true information of the distribution.

An estimate is right within 10 % of the truth or 0.05 nats, for ncfast and for everybody else. At
ten columns a side no estimator by neighbours is. The file keeps each number and how many warnings
its call gave. `packages.discrete` has integers that are declared as such, and packages that count
them. Both run only if named.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

import ncfast
from ncfast.benchmarks import availability, tied_information
from ncfast.benchmarks.plain import packages
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation

K, RHO = 5, 0.6
SHARE, NATS = 0.1, 0.05  # largest error of a right estimate: of the truth, or in nats
GAUSSIAN, RELU, COUNTS = "Gaussian", "ReLU, half zeros", "integers"
MEANS = 3, 3  # of the common and of each own Poisson count
Values = dict[str, float]
QUICK: list[dict[str, Any]] = [
    {"N": 1000, "columns": 1, "k": K, "data": GAUSSIAN, "rho": RHO},
    {"N": 1000, "columns": 1, "k": K, "data": COUNTS},
]
FULL: list[dict[str, Any]] = [
    {"N": 20_000, "columns": 1, "k": K, "data": GAUSSIAN, "rho": RHO},
    {"N": 20_000, "columns": 2, "k": K, "data": GAUSSIAN, "rho": RHO},
    {"N": 20_000, "columns": 1, "k": K, "data": RELU, "rho": RHO},
    {"N": 20_000, "columns": 1, "k": K, "data": COUNTS},
    {"N": 20_000, "columns": 5, "k": K, "data": GAUSSIAN, "rho": 0.4},
    {"N": 20_000, "columns": 5, "k": K, "data": GAUSSIAN, "rho": RHO},
    {"N": 20_000, "columns": 10, "k": K, "data": GAUSSIAN, "rho": RHO},
]
DISCRETE: dict[bool, dict[str, Any]] = {
    quick: {"N": 5000 if quick else 20_000, "columns": 1, "data": COUNTS} for quick in (True, False)
}
MINUTES = 100_000  # N times columns above which infomeasure takes minutes


def discrete_cases(quick: bool) -> list[Case]:
    """A look at each pair of integers."""
    sizes = DISCRETE[quick]
    n = int(sizes["N"])
    return [Case(sizes, 16 * n, 2 * n, promise=SHARE, budget=SHARE, quick=quick)]


def cases(quick: bool) -> list[Case]:
    """Differences and maxima of all pairs of rows; a tree skips most of them."""
    found = []
    for sizes in QUICK if quick else FULL:
        n, d = sizes["N"], 2 * sizes["columns"]
        found.append(
            Case(sizes, 8 * n * d, 2 * n * n * d, promise=SHARE, budget=SHARE, quick=quick)
        )
    return found


def make(case: Case, seed: int, device: torch.device) -> Inputs:
    """Two blocks (N, columns) and their information in nats."""
    rng = np.random.default_rng(seed)
    n, d, data = int(case.sizes["N"]), int(case.sizes["columns"]), case.sizes["data"]
    if data == COUNTS:
        blocks = tied_information.common_poisson(*MEANS)(rng, (n, d))
        exact = d * tied_information.common_poisson_information(*MEANS)
    else:
        rho = float(case.sizes["rho"])
        draw, of = {
            GAUSSIAN: (tied_information.gaussians, tied_information.gaussian),
            RELU: (_relu, tied_information.relu_information),
        }[str(data)]
        blocks, exact = draw(rng, n, rho, d), d * of(rho)
    return {"blocks": tuple(np.asarray(b, dtype=float) for b in blocks), "truth": float(exact)}


def _relu(rng: np.random.Generator, n: int, rho: float, dim: int) -> Any:
    return tied_information.relu(rho, dim)(rng, n)


def truth(inputs: Inputs) -> Values:
    return {"nats": inputs["truth"]}


def error(found: Values, exact: Values) -> float:
    """Difference over the truth, or over 0.5 nats where the truth is smaller."""
    return abs(found["nats"] - exact["nats"]) / max(exact["nats"], NATS / SHARE)


def ours(inputs: Inputs, stderr: bool) -> Call:
    def call() -> Values:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ncfast.EstimateWarning)
            found = ncfast.mutual_information(*inputs["blocks"], k=K, stderr=stderr)
        return {"nats": found.value, "warnings": len(found.warnings)}

    return call


def package(inputs: Inputs, function: Callable[..., float]) -> Call:
    blocks = [packages.columns(block) for block in inputs["blocks"]]
    return _counted(partial(function, *blocks, k=K))


def _counted(estimate: Callable[[], float]) -> Call:
    """The estimate of a package and the number of its warnings."""

    def call() -> Values:
        np.random.seed(0)  # noqa: NPY002  noise of the packages
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = estimate()
        return {"nats": value, "warnings": len(caught)}

    return call


def ours_discrete(inputs: Inputs, correction: Any) -> Call:
    def call() -> Values:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ncfast.EstimateWarning)
            found = ncfast.discrete_mutual_information(*_integers(inputs), correction=correction)
        return {"nats": found.value, "warnings": len(found.warnings)}

    return call


def package_discrete(inputs: Inputs, function: Callable[..., float]) -> Call:
    return _counted(partial(function, *_integers(inputs)))


def _integers(inputs: Inputs) -> list[np.ndarray]:
    """The blocks of one column as (N,) integers."""
    return [block[:, 0].astype(np.int64) for block in inputs["blocks"]]


def _one_column(name: str) -> availability.Available:
    installed = availability.package(name)

    def reason(case: Case) -> str | None:
        return "takes one column a side" if int(case.sizes["columns"]) > 1 else installed(case)

    return reason


def _slow(case: Case) -> str | None:
    size = int(case.sizes["N"]) * int(case.sizes["columns"])
    if size > MINUTES:
        return f"takes minutes at N x columns = {size:,}"
    return availability.package("infomeasure")(case)


def _package(
    name: str, function: Callable[..., float], reason: availability.Available
) -> Contestant:
    return Contestant(name, "library", partial(package, function=function), reason)


OPERATION = Operation(
    "packages.information",
    cases,
    make,
    truth,
    error,
    [
        Contestant("ncfast", "ncfast", partial(ours, stderr=False)),
        Contestant("ncfast, with standard error", "ncfast", partial(ours, stderr=True)),
        _package(
            "scikit-learn mutual_info_regression", packages.scikit_learn, _one_column("sklearn")
        ),
        _package("ennemi estimate_mi", packages.ennemi, _one_column("ennemi")),
        _package("npeet_plus mi", packages.npeet_plus, availability.package("npeet_plus")),
        _package("infomeasure mutual_information", packages.infomeasure, _slow),
    ],
    when_named=True,
    values=dict,
)
_DISCRETE = {
    "scikit-learn mutual_info_score": ("sklearn", packages.scikit_learn_discrete),
    "ennemi estimate_mi, discrete": ("ennemi", packages.ennemi_discrete),
    "npeet_plus midd": ("npeet_plus", packages.npeet_plus_discrete),
    "infomeasure mutual_information, discrete": ("infomeasure", packages.infomeasure_discrete),
}
DISCRETE_OPERATION = Operation(
    "packages.discrete",
    discrete_cases,
    make,
    truth,
    error,
    [
        Contestant(
            "ncfast discrete_mutual_information", "ncfast", partial(ours_discrete, correction=None)
        ),
        Contestant(
            "ncfast discrete_mutual_information, miller-madow",
            "ncfast",
            partial(ours_discrete, correction="miller-madow"),
        ),
        *(
            Contestant(
                name,
                "library",
                partial(package_discrete, function=function),
                availability.package(module),
            )
            for name, (module, function) in _DISCRETE.items()
        ),
    ],
    when_named=True,
    values=dict,
)
