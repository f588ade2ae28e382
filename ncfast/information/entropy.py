"""Differential entropy by the distance to the k-th neighbour (Kozachenko & Leonenko 1987)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ncfast._arrays import Array
from ncfast.information import caveats
from ncfast.information.caveats import psi
from ncfast.information.duplicates import Duplicates, resolve
from ncfast.information.errors import jackknife_stderr
from ncfast.information.estimate import Estimate, announce
from ncfast.information.neighbors import Neighbors, knn
from ncfast.information.preprocess import power_of_two
from ncfast.information.samples import as_samples, check_choice, check_k
from ncfast.information.support import on_plane_or_sphere, resolution, thin

Norm = Literal["l2", "linf"]


def log_unit_ball(dim: int, metric: Norm) -> float:
    """Log volume of the unit ball; by lgamma, because the volume itself underflows for d > 300."""
    if metric == "linf":
        return dim * math.log(2)
    return dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)


def group_sizes(groups: Tensor | None, rows: Tensor) -> Tensor:
    """(N,) float64: size of each row's group."""
    if groups is None:
        return torch.full((len(rows),), len(rows), dtype=rows.dtype, device=rows.device)
    return torch.bincount(groups)[groups].to(rows.dtype)


def kl_terms(rows: Tensor, k: int, groups: Tensor | None, metric: Norm, found: Neighbors) -> Tensor:
    """(N,) terms whose mean over a group is its entropy, d log r_k + log V_d + psi(N) - psi(k)."""
    dim = rows.shape[1]
    constant = log_unit_ball(dim, metric) - caveats.digamma(k)
    radius = found.distances[:, k - 1]
    return dim * radius.log() + psi(group_sizes(groups, rows)) + constant


@torch.no_grad()
def entropy(
    x: Array,
    *,
    k: int = 5,
    metric: Norm = "l2",
    duplicates: Duplicates = "warn",
    stderr: bool = True,
    backend: str = "auto",
    generator: torch.Generator | None = None,
) -> Estimate:
    """Differential entropy h(X) in nats, by k-th neighbour distances (Kozachenko-Leonenko).

    h = psi(N) - psi(k) + log V_d + (d / N) sum_i log r_i, with r_i the distance from sample i to
    its k-th neighbour among the others. Invariant to translation and rotation; h(aX) is
    h(X) + d log a to rounding. Distances are exact in float64 and never clipped.

    Args:
        x: (N, d) or (N,) samples: a tensor of any real dtype and device, or a NumPy array.
        k: neighbours; a small k has less bias in many dimensions, a large k less variance.
        metric: "l2" Euclidean or "linf" maximum norm.
        duplicates: equal rows: "warn" leaves them, and the value is -inf where a row has k copies;
            "drop" keeps one of each; "jitter" adds noise of 1e-10 standard deviations; "error".
        stderr: False saves the standard error.
        backend: see `knn`.
        generator: for "jitter"; None takes a private one with a fixed seed.

    Returns:
        `Estimate`; it warns of duplicates, atoms, constant columns, of rows in a plane or on a
        sphere (the value is -inf) or on another thin support, and where
        the bias for a Gaussian of this dimension, computed by theory and given in
        `details["gaussian_bias"]`, exceeds 0.1 nats.

    Raises:
        TypeError, ValueError: wrong types or shapes, NaN, k not in 1..N-1, an unknown option.

    Example:
        >>> import torch, ncfast
        >>> x = torch.rand(2000, 1, generator=torch.Generator().manual_seed(0))
        >>> abs(ncfast.entropy(x).value) < 0.05  # of the uniform distribution on [0, 1]: 0
        True
    """
    check_choice("metric", metric, ("l2", "linf"))
    rows = as_samples("x", x)
    k = check_k(k, len(rows))
    total = len(rows)
    rows, repeats = resolve(rows, duplicates, generator)
    k = check_k(k, len(rows))
    found = measure(rows, k, metric, stderr, backend, resolution(x))
    doubts = (*caveats.duplicates(repeats, total), *found.warnings)
    details = {**found.details, "duplicates": float(repeats)}
    found = replace(found, warnings=doubts, details=details)
    return announce(found)


def measure(
    rows: Tensor, k: int, metric: Norm, stderr: bool, backend: str, eps: float = 0.0
) -> Estimate:
    """`entropy` of rows that have been checked, without raising its warnings.

    `eps`: relative rounding of the rows as they were passed.
    """
    count, dim = rows.shape
    scale = power_of_two(rows)
    rows = rows / scale  # squares of tiny or huge differences would leave the range of float64
    offset = dim * float(scale.log())
    constant = (rows == rows[0]).all(0)
    doubts = caveats.atoms("x", rows)
    if bool(constant.any()) or on_plane_or_sphere(rows, eps):
        doubts.append(
            "The rows lie in a plane or on a sphere, up to their rounding, where the entropy is "
            "-inf. Use coordinates within it: fewer columns, or principal components."
        )
        return Estimate(-math.inf, math.nan, count, k, "kl", (dim,), warnings=tuple(doubts))
    found = knn(rows, k, metric=metric, backend=backend)
    doubts += thin(found.distances, dim)

    def at(index: Tensor) -> float:
        part = rows[index]
        near = knn(part, k, metric=metric, backend=backend)
        return float(kl_terms(part, k, None, metric, near).mean())

    value = float(kl_terms(rows, k, None, metric, found).mean()) + offset
    error = jackknife_stderr(at, count, k) if stderr else math.nan
    bias = caveats.gaussian_bias(count, k, dim)
    doubts += caveats.dimension(count, k, dim)
    doubts += caveats.no_stderr(error, count, k) if stderr else []
    return Estimate(
        value,
        error,
        count,
        k,
        "kl",
        (dim,),
        found.backend,
        tuple(doubts),
        {"gaussian_bias": bias},
    )
