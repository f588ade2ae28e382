"""Fuzzed estimates of entropy and information, against their formulas in long double."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import digamma, gammaln

import ncfast
from ncfast.benchmarks.reliability.truth import problem

Floats = NDArray[Any]


def information(rng: np.random.Generator) -> Iterator[str]:
    """Entropy, mutual information, label information, discrete information, and CKA."""
    count, k = int(rng.integers(8, 60)), int(rng.integers(1, 6))
    dims = rng.integers(1, 4, 2)
    x, y = (10.0 ** rng.uniform(-3, 3) * rng.standard_normal((count, d)) for d in dims)
    labels = rng.integers(0, int(rng.integers(2, 5)), count)
    backend = str(rng.choice(["auto", "reference"]))
    quiet: dict[str, Any] = {"k": k, "stderr": False, "backend": backend}
    for metric in ("l2", "linf"):
        found = ncfast.entropy(x, metric=metric, **quiet)
        yield problem(found.value, _entropy(x, k, metric), 1e-9, 1e-9)
    plain: dict[str, Any] = {"preprocess": None, **quiet}
    found = ncfast.mutual_information(x, y, method="ksg", metric="linf", **plain)
    yield problem(found.value, _ksg(x, y, k), 1e-9, 1e-9)
    found = ncfast.label_information(x, labels, **quiet)
    yield problem(found.value, _ross(x, labels, k), 1e-9, 1e-9)
    other = rng.integers(0, 4, count)
    found = ncfast.discrete_mutual_information(labels, other)
    yield problem(found.value, _discrete(labels, other), 1e-9, 1e-12)
    value = ncfast.cka(x, y, debiased=False)
    yield problem(float(value), _cka(x, y), 1e-9, 1e-12)
    rows = torch.from_numpy(x).to(torch.float32)
    value = ncfast.cka(rows, torch.from_numpy(y), debiased=False)
    yield problem(float(value), _cka(rows.numpy().astype(np.float64), y), 1e-9, 1e-12)


def _distances(x: Floats, metric: str) -> Floats:
    gaps = np.abs(x[:, None].astype(np.longdouble) - x[None])
    found = np.sqrt((gaps**2).sum(2)) if metric == "l2" else gaps.max(2)
    np.fill_diagonal(found, np.inf)
    return found


def _entropy(x: Floats, k: int, metric: str) -> float:
    """Kozachenko & Leonenko 1987."""
    count, dim = x.shape
    radii = np.sort(_distances(x, metric), 1)[:, k - 1]
    ball = dim * np.log(2.0)
    if metric == "l2":
        ball = dim / 2 * np.log(np.pi) - gammaln(dim / 2 + 1)
    return float(digamma(count) - digamma(k) + ball + dim * np.log(radii).mean())


def _ksg(x: Floats, y: Floats, k: int) -> float:
    """The first estimator of Kraskov, Stoegbauer & Grassberger 2004."""
    first, second = _distances(x, "linf"), _distances(y, "linf")
    radii = np.sort(np.maximum(first, second), 1)[:, k - 1 : k]
    inside = [(part < radii).sum(1) + 1 for part in (first, second)]
    return float(digamma(k) + digamma(len(x)) - sum(digamma(n).mean() for n in inside))


def _ross(x: Floats, labels: NDArray[Any], k: int) -> float:
    """Ross 2014; classes of one member are left out."""
    sizes = np.bincount(labels)
    kept = sizes[labels] > 1
    x, labels = x[kept], labels[kept]
    if len(np.unique(labels)) < 2:
        return 0.0
    distances = _distances(x, "l2")
    terms = []
    for row, label in enumerate(labels):
        own = np.sort(distances[row][labels == label])
        near = min(k, sizes[label] - 1)
        inside = (distances[row] <= own[near - 1]).sum()
        terms.append(digamma(near) - digamma(sizes[label]) - digamma(inside))
    return float(digamma(len(x)) + np.mean(terms))


def _discrete(x: NDArray[Any], y: NDArray[Any]) -> float:
    total = 0.0
    for a in np.unique(x):
        for b in np.unique(y):
            share = np.mean((x == a) & (y == b))
            if share:
                total += share * np.log(share / np.mean(x == a) / np.mean(y == b))
    return float(total)


def _cka(x: Floats, y: Floats) -> float:
    x, y = (part.astype(np.longdouble) - part.mean(0, dtype=np.longdouble) for part in (x, y))
    inner = ((y.T @ x) ** 2).sum()
    return float(inner / np.sqrt(((x.T @ x) ** 2).sum() * ((y.T @ y) ** 2).sum()))
