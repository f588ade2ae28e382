"""A log point of the information plane: I(Z;X), I(Z;Y) and I(Z;X|Y) of one layer, in nats.

Z is the features with noise, the same draw for everybody. What depends on the inputs alone is
prepared once and not timed, as over a training run; the maximum norm is used throughout but for
I(Z;Y), so that trees of public libraries can take part. The sign of a principal axis is free, but
the noise is not symmetric: everybody turns his axes to those of one decomposition.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ncfast
from ncfast.benchmarks import availability
from ncfast.benchmarks.plain import brute
from ncfast.benchmarks.plain import neighbors as trees
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation
from ncfast.information.duplicates import private_generator
from ncfast.information.reduction import principal

CLASSES, DIM, K, SIGMA = 10, 4, 5, 0.1
Values = dict[str, float]
QUICK: list[dict[str, Any]] = [{"N": 2000, "inputs": 100, "D": 50, "k": K}]
FULL: list[dict[str, Any]] = [{"N": n, "inputs": 784, "D": 200, "k": K} for n in (2000, 10_000)]


def cases(quick: bool) -> list[Case]:
    return [describe(sizes, quick) for sizes in (QUICK if quick else FULL)]


def describe(sizes: dict[str, Any], quick: bool) -> Case:
    """The operations of two scatter matrices and of pairs of rows.

    All pairs count in 8 and in 9 columns, pairs within classes twice in 4 columns.
    """
    n, d = sizes["N"], sizes["D"]
    flops = 4 * n * d * d + 2 * n * n * (2 * DIM + CLASSES - 1) + 4 * n * n * DIM // CLASSES
    return Case(sizes, bytes=8 * n * d, flops=flops, promise=1e-7, budget=1e-6, quick=quick)


def make(case: Case, seed: int, device: torch.device) -> Inputs:
    """Gaussian classes with hidden directions as inputs, and features from a random layer."""
    n, m, d = (int(case.sizes[name]) for name in ("N", "inputs", "D"))
    draw = {"generator": torch.Generator(device).manual_seed(seed), "dtype": torch.float64}
    labels = torch.arange(n, device=device) % CLASSES
    inputs = torch.randn(CLASSES, m, device=device, **draw)[labels]
    hidden = torch.randn(n, 20, device=device, **draw)
    inputs = inputs + hidden @ torch.randn(20, m, device=device, **draw) / 4
    inputs += 0.3 * torch.randn(n, m, device=device, **draw)
    feats = (inputs @ torch.randn(m, d, device=device, **draw) / m**0.5).relu()
    signs = {
        "overall": principal(feats, CLASSES - 1).axes.cpu(),
        "inside": principal(feats, DIM, labels).axes.cpu(),
    }
    return {"inputs": inputs, "labels": labels, "feats": feats, "k": int(case.sizes["k"])} | signs


def noise(count: int, columns: int) -> Tensor:
    """The noise that `ncfast.InformationPlane` draws in every call."""
    generator = private_generator(torch.device("cpu"), 0)
    return torch.randn(count, columns, dtype=torch.float64, generator=generator)


def axes(rows: Tensor, dim: int) -> Tensor:
    """(D, dim) principal axes from singular vectors."""
    return torch.linalg.svd(rows, full_matrices=False).Vh[:dim].T


def turned(found: Tensor, like: Tensor) -> Tensor:
    """The axes with the signs of `like`."""
    return found * (found * like).sum(0).sign()


def standardized(rows: Tensor) -> Tensor:
    """Columns of mean zero and population standard deviation one."""
    return (rows - rows.mean(0)) / rows.std(0, correction=0)


def within(rows: Tensor, labels: Tensor) -> Tensor:
    """Rows minus the mean of their class."""
    masks = [labels == c for c in range(CLASSES)]
    return rows - torch.stack([rows[mask].mean(0) for mask in masks])[labels]


def codes(inputs: Inputs) -> dict[str, Tensor]:
    """The codes of the three estimates, by singular value decompositions in float64."""
    x, feats, labels = (inputs[name].cpu() for name in ("inputs", "feats", "labels"))
    count = len(feats)
    scale = SIGMA * torch.linalg.vector_norm(feats, dim=1).max()
    overall = turned(axes(feats - feats.mean(0), CLASSES - 1), inputs["overall"])
    inside = feats @ turned(axes(within(feats, labels), DIM), inputs["inside"])
    return {
        "x": standardized(x @ axes(x - x.mean(0), DIM)),
        "z": standardized(feats @ overall[:, :DIM] + scale * noise(count, DIM)),
        "by_label": feats @ overall + scale * noise(count, CLASSES - 1),
        "through": feats @ overall[:, :DIM] / scale + noise(count, DIM),
        "noisy": inside / scale + noise(count, DIM),
        "noise": noise(count, DIM),
    }


def truth(inputs: Inputs) -> Values:
    """The estimates by their definitions: singular vectors and all distances, in float64."""
    labels, k, code = inputs["labels"].cpu(), inputs["k"], codes(inputs)
    noisy, alone = (brute.log_radii(code[name], labels, k, "linf") for name in ("noisy", "noise"))
    one_class = torch.zeros_like(labels)
    through, draw = (
        brute.log_radii(code[name], one_class, k, "linf") for name in ("through", "noise")
    )
    joint = torch.cat((code["x"], code["z"]), 1)
    return {
        "inputs": brute.ksg(code["x"], code["z"], k, "linf"),
        "inputs, channel": DIM * float((through - draw).mean()),
        "inputs, three entropies": (
            brute.entropy(code["x"], k, "linf")
            + brute.entropy(code["z"], k, "linf")
            - brute.entropy(joint, k, "linf")
        ),
        "labels": brute.ross(code["by_label"], labels, k),
        # The other terms of h(Z|Y) and of h(noise) are equal and cancel.
        "superfluous": DIM * float((noisy - alone).mean()),
    }


def error(found: Values, exact: Values) -> float:
    """Largest relative error of the estimates."""
    return max(abs(value / exact[name] - 1) for name, value in found.items())


def ours(inputs: Inputs, method: Any = "ksg", name: str = "inputs", **options: Any) -> Call:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ncfast.EstimateWarning)
        plane = ncfast.InformationPlane(
            inputs["inputs"],
            inputs["labels"],
            dim=DIM,
            sigma=SIGMA,
            k=inputs["k"],
            metric="linf",
            method=method,
            **options,
        )

    def call() -> Values:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ncfast.EstimateWarning)
            point = plane(inputs["feats"])
        rest = {each: getattr(point, each).value for each in ("labels", "superfluous")}
        return {name: point.inputs.value} | rest

    return call


def plainly(inputs: Inputs, radii_and_counts: Callable[..., Any]) -> Call:
    """PCA by scikit-learn, KSG by the given trees, all else by cKDTree class by class."""
    from scipy.special import digamma
    from sklearn.decomposition import PCA

    feats, labels, k = inputs["feats"].numpy(), inputs["labels"].numpy(), inputs["k"]
    members = [np.flatnonzero(labels == c) for c in range(CLASSES)]
    # By default PCA takes a randomised solver here, whose error is too large.
    x = PCA(DIM, svd_solver="full").fit_transform(inputs["inputs"].numpy())
    x /= x.std(0)
    draws = {columns: noise(len(feats), columns).numpy() for columns in (DIM, CLASSES - 1)}

    def call() -> Values:
        scale = SIGMA * np.linalg.norm(feats, axis=1).max()
        code = feats @ _axes(PCA(CLASSES - 1).fit(feats), inputs["overall"])
        z = code[:, :DIM] + scale * draws[DIM]
        _, counts = radii_and_counts(x, (z - z.mean(0)) / z.std(0), k)
        information = digamma(k) + digamma(len(z)) - sum(digamma(c + 1).mean() for c in counts)
        by_label = _ross(code + scale * draws[CLASSES - 1], members, k)
        residuals = feats - np.stack([feats[rows].mean(0) for rows in members])[labels]
        inside = feats @ _axes(PCA(DIM).fit(residuals), inputs["inside"])
        noisy, alone = inside / scale + draws[DIM], draws[DIM]
        gaps = [_log_radius(noisy[rows], k) - _log_radius(alone[rows], k) for rows in members]
        superfluous = DIM * float(np.concatenate(gaps).mean())
        return {"inputs": float(information), "labels": by_label, "superfluous": superfluous}

    return call


def three_entropies(inputs: Inputs) -> Call:
    """I(Z;X) alone, from three entropies by cKDTree, as is common."""
    from sklearn.decomposition import PCA

    feats, k = inputs["feats"].numpy(), inputs["k"]
    x = PCA(DIM, svd_solver="full").fit_transform(inputs["inputs"].numpy())
    x /= x.std(0)
    draw = noise(len(feats), DIM).numpy()

    def call() -> Values:
        scale = SIGMA * np.linalg.norm(feats, axis=1).max()
        code = feats @ _axes(PCA(CLASSES - 1).fit(feats), inputs["overall"])
        z = code[:, :DIM] + scale * draw
        z = (z - z.mean(0)) / z.std(0)
        value = _entropy(x, k) + _entropy(z, k) - _entropy(np.hstack((x, z)), k)
        return {"inputs, three entropies": value}

    return call


def _entropy(rows: np.ndarray, k: int) -> float:
    """The entropy by Kozachenko and Leonenko in the maximum norm."""
    from scipy.special import digamma

    count, dim = rows.shape
    terms = math.log(2) + _log_radius(rows, k)
    return float(digamma(count) - digamma(k) + dim * terms.mean())


def _axes(fitted: Any, like: Tensor) -> np.ndarray:
    return turned(torch.from_numpy(fitted.components_.T), like).numpy()


def _log_radius(rows: np.ndarray, k: int) -> np.ndarray:
    from scipy.spatial import cKDTree

    return np.log(cKDTree(rows).query(rows, k + 1, p=np.inf, workers=-1)[0][:, -1])


def _ross(z: np.ndarray, members: list[np.ndarray], k: int) -> float:
    from scipy.spatial import cKDTree
    from scipy.special import digamma

    tree, terms = cKDTree(z), []
    for rows in members:
        radius = cKDTree(z[rows]).query(z[rows], k + 1, workers=-1)[0][:, -1]
        inside = tree.query_ball_point(
            z[rows], np.nextafter(radius, 0), return_length=True, workers=-1
        )
        terms.append(digamma(inside) + digamma(len(rows)))
    return float(digamma(len(z)) + digamma(k) - np.concatenate(terms).mean())


_sklearn = availability.package("sklearn")
CONTESTANTS = [
    Contestant("ncfast", "ncfast", partial(ours, stderr=False)),
    Contestant("ncfast, with standard errors", "ncfast", partial(ours, stderr=True)),
    Contestant(
        "ncfast, through the channel, with standard errors",
        "ncfast",
        partial(ours, method="channel", name="inputs, channel", stderr=True),
    ),
    Contestant(
        "ncfast, by three entropies, with standard errors",
        "ncfast",
        partial(ours, method="kl", name="inputs, three entropies", stderr=True),
    ),
    Contestant("PCA and three entropies, I(Z;X) alone", "public", three_entropies, _sklearn),
    Contestant(
        "PCA and SciPy cKDTree",
        "public",
        partial(plainly, radii_and_counts=trees.KSG["cKDTree"]),
        _sklearn,
    ),
    Contestant(
        "PCA, SciPy radii, scikit-learn counts in threads",
        "public",
        partial(plainly, radii_and_counts=trees.KSG["cKDTree + KDTree threads"]),
        _sklearn,
    ),
]

OPERATION = Operation("plane", cases, make, truth, error, CONTESTANTS)
