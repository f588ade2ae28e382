"""NC1 of a trained network's features by installed packages, as Tr(Sigma_W) / Tr(Sigma_B).

Both covariances weight every sample the same, so the value is nc1.quotient_sample. The index of
Calinski and Harabasz is its inverse times (N - K) / (K - 1). Other contestants than "ncfast" may
compute more. Runs only if named.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import ncfast
from ncfast.benchmarks import availability
from ncfast.benchmarks.plain import moments as plain
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation
from ncfast.benchmarks.samples import classes

ID = "nc1.quotient_sample"
Values = dict[str, float]
QUICK: list[dict[str, Any]] = [{"N": 4000, "D": 128, "K": 20, "spread": 0.5}]
FULL: list[dict[str, Any]] = [
    {"N": 50_000, "D": 512, "K": 100, "spread": 0.5},
    {"N": 50_000, "D": 512, "K": 1000, "spread": 0.5},
    {"N": 50_000, "D": 512, "K": 100, "spread": 1e-4},
    {"N": 50_000, "D": 512, "K": 100, "spread": 1e-5},
]


def cases(quick: bool) -> list[Case]:
    """One read of features and labels."""
    found = []
    for sizes in QUICK if quick else FULL:
        n, d = sizes["N"], sizes["D"]
        about = sizes | {"dtype": "float32"}
        found.append(Case(about, n * (4 * d + 8), 6 * n * d, quick=quick))
    return found


def truth(inputs: Inputs) -> Values:
    """Two passes in float64."""
    found = plain.two_pass(inputs["feats"], inputs["labels"], inputs["k"], 4096, torch.float64)
    return {ID: quotient(*found[:3])}


def quotient(counts: torch.Tensor, means: torch.Tensor, within: torch.Tensor) -> float:
    """From counts (K,), means (K, D) and sums of squares (K,)."""
    share = counts.to(means.dtype) / counts.sum()
    between = ((means - share @ means).square().sum(1) * share).sum()
    return float(within.sum() / counts.sum() / between)


def error(found: Values, exact: Values) -> float:
    """Relative error of the quotient."""
    return abs(found[ID] / exact[ID] - 1)


def ours(inputs: Inputs, metrics: Any) -> Call:
    def call() -> Values:
        values = ncfast.collapse_metrics(inputs["feats"], inputs["labels"], metrics=metrics)
        return {name: float(value) for name, value in values.items()}

    return call


def of_index(inputs: Inputs, index: float) -> Values:
    """The quotient from the index of Calinski and Harabasz."""
    n, k = len(inputs["labels"]), inputs["k"]
    return {ID: (n - k) / (k - 1) / index}


def torchmetrics(inputs: Inputs) -> Call:
    from torchmetrics.functional.clustering import calinski_harabasz_score

    return lambda: of_index(
        inputs, float(calinski_harabasz_score(inputs["feats"], inputs["labels"]))
    )


def torchmetrics_class(inputs: Inputs) -> Call:
    """The metric fed by batches of 512 rows, as in an evaluation: it keeps all of them."""
    from torchmetrics.clustering import CalinskiHarabaszScore

    def call() -> Values:
        metric = CalinskiHarabaszScore()
        for rows, labels in zip(
            inputs["feats"].split(512), inputs["labels"].split(512), strict=True
        ):
            metric.update(rows, labels)
        return of_index(inputs, float(metric.compute()))

    return call


def scikit_learn(inputs: Inputs) -> Call:
    from sklearn.metrics import calinski_harabasz_score

    feats, labels = inputs["feats"].numpy(), inputs["labels"].numpy()
    return lambda: of_index(inputs, float(calinski_harabasz_score(feats, labels)))


def naive_bayes(inputs: Inputs) -> Call:
    """Counts, means and variances of the classes, from which the quotient follows."""
    from sklearn.naive_bayes import GaussianNB

    feats, labels = inputs["feats"].numpy(), inputs["labels"].numpy()

    def call() -> Values:
        model = GaussianNB(var_smoothing=0.0).fit(feats, labels)
        counts = torch.as_tensor(model.class_count_)
        return {
            ID: quotient(
                counts,
                torch.as_tensor(model.theta_),
                counts * torch.as_tensor(model.var_).sum(1),
            )
        }

    return call


def recipe(inputs: Inputs, name: str, batch: int, dtype: torch.dtype) -> Call:
    """A function of `plain.moments`, then the quotient."""

    def call() -> Values:
        found = plain.REFERENCES[name](inputs["feats"], inputs["labels"], inputs["k"], batch, dtype)
        return {ID: quotient(*found[:3])}

    return call


def _recipe(label: str, kind: Any, name: str, dtype: torch.dtype) -> Contestant:
    return Contestant(label, kind, partial(recipe, name=name, batch=512, dtype=dtype))


def _package(name: str, module: str, prepare: Callable[[Inputs], Call]) -> Contestant:
    return Contestant(name, "library", prepare, availability.package(module))


OPERATION = Operation(
    "packages.nc1",
    cases,
    classes,
    truth,
    error,
    [
        Contestant("ncfast", "ncfast", partial(ours, metrics=[ID])),
        Contestant("ncfast, standard tier", "ncfast", partial(ours, metrics="standard")),
        _package("torchmetrics calinski_harabasz_score", "torchmetrics", torchmetrics),
        _package("torchmetrics CalinskiHarabaszScore", "torchmetrics", torchmetrics_class),
        _package("scikit-learn calinski_harabasz_score", "sklearn", scikit_learn),
        _package("scikit-learn GaussianNB", "sklearn", naive_bayes),
        _recipe("two passes, float32, 512 rows", "torch", "two_pass", torch.float32),
        _recipe("two passes, float64, 512 rows", "torch", "two_pass", torch.float64),
        _recipe(
            "neural-collapse package's recipe, masks of 512 rows", "public", "one_hot",
            torch.float32,
        ),
    ],
    when_named=True,
    values=lambda found: {ID: found[ID]},
)  # fmt: skip
