"""Differential entropy from distances to the k-th neighbour (Kozachenko & Leonenko 1987)."""

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
    """Log volume of the unit ball. The volume itself would underflow for d > 300."""
    if metric == "linf":
        return dim * math.log(2)
    return dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)


def group_sizes(groups: Tensor | None, rows: Tensor) -> Tensor:
    """(N,) float64: the number of rows in each row's group, or of all rows."""
    if groups is None:
        return torch.full((len(rows),), len(rows), dtype=rows.dtype, device=rows.device)
    return torch.bincount(groups)[groups].to(rows.dtype)


def kl_terms(rows: Tensor, k: int, groups: Tensor | None, metric: Norm, found: Neighbors) -> Tensor:
    """(N,) terms d log r_k + log V_d + psi(N) - psi(k); their mean over a group is its entropy."""
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
    """Differential entropy h(X) in nats, from distances to the k-th neighbour.

    h = psi(N) - psi(k) + log V_d + (d / N) sum_i log r_i (Kozachenko & Leonenko 1987), where r_i is
    the distance from sample i to its k-th neighbour and V_d the volume of the unit ball. The
    estimate is invariant to translation and rotation, and h(aX) equals h(X) + d log a up to
    rounding. Distances are exact in float64 and never clipped.

    Args:
        x: (N, d) or (N,) samples: a tensor of any real dtype and device, or a NumPy array.
        k: number of neighbours. A small k gives less bias in many dimensions, a large k less
            variance.
        metric: "l2" Euclidean or "linf" maximum norm.
        duplicates: policy for equal rows. "warn" leaves them, and the value is -inf if a row has k
            copies. "drop" keeps one of each. "jitter" adds noise of 1e-10 standard deviations.
            "error" refuses them.
        stderr: False skips the standard error.
        backend: see `ncfast.information.neighbors.knn`.
        generator: source of the noise of "jitter"; None takes a private one with a fixed seed.

    Returns:
        `Estimate`. It warns of duplicates, of repeated values, of constant columns, of rows in a
        plane or on a sphere (the value is -inf), and of rows on another thin support. It also warns
        if the bias for a Gaussian of this dimension, `details["gaussian_bias"]`, exceeds 0.1 nats.
        This bias follows from theory.

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
    """`entropy` of checked rows. It raises no warnings.

    `eps`: relative rounding error of the rows in the dtype that was passed.
    """
    count, dim = rows.shape
    scale = power_of_two(rows)
    rows = rows / scale  # so that squares of differences stay in the range of float64
    offset = dim * float(scale.log())
    constant = (rows == rows[0]).all(0)
    doubts = caveats.atoms("x", rows)
    if bool(constant.any()) or on_plane_or_sphere(rows, eps):
        doubts.append(
            "The rows lie in a plane or on a sphere, up to their rounding: the entropy is -inf. "
            "Use coordinates within the plane or sphere: fewer columns, or principal components."
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
