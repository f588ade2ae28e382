"""Differential entropy from distances to the k-th neighbour (Kozachenko & Leonenko 1987).

Rows without a density are detected: rows in a plane, on a sphere or on another thin support.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
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

Norm = Literal["l2", "linf"]
_ROUNDINGS = 2  # a singular value below this many rounding errors counts as zero
_EPS = torch.finfo(torch.float64).eps


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


def resolution(value: object) -> float:
    """Relative rounding error of an argument: eps of its dtype, at least that of float64."""
    dtype = getattr(value, "dtype", None)
    if isinstance(dtype, torch.dtype):
        return torch.finfo(dtype).eps if dtype.is_floating_point else _EPS
    if isinstance(dtype, np.dtype) and np.issubdtype(dtype, np.floating):
        return max(_EPS, float(np.finfo(dtype).eps))
    return _EPS


def on_plane_or_sphere(rows: Tensor, eps: float) -> bool:
    """Whether all rows satisfy one equation a + b x + c |x|^2 = 0, up to their own rounding.

    The test is on the matrix with columns 1, x and |x|^2, whose rows are scaled to unit size. Its
    smallest singular value must be at most `_ROUNDINGS` times the Frobenius norm of its rounding
    errors. This must hold for two scales of the columns, because the median size misleads for
    collapsed classes and the mean size with an outlier. The answer is False for N <= d + 2 rows,
    which always satisfy such an equation.
    """
    if len(rows) <= rows.shape[1] + 2:
        return False
    centred = rows - rows.median(0).values
    sizes = centred.abs()
    middle = torch.where(sizes > 0, sizes, torch.nan).nanmedian(0).values
    return all(_singular(rows, centred, unit, eps + 2 * _EPS) for unit in (middle, sizes.mean(0)))


def _singular(rows: Tensor, centred: Tensor, unit: Tensor, eps: float) -> bool:
    square = centred.square().sum(1, keepdim=True)
    middle = square.median().clamp(min=torch.finfo(rows.dtype).tiny)
    columns = torch.cat((torch.ones_like(square), centred / unit, square / middle), 1)
    of_square = 2 * (centred * rows).abs().sum(1, keepdim=True) / middle
    rounding = torch.cat((rows.abs() / unit, of_square), 1)
    weight = 1 / columns.abs().amax(1, keepdim=True)  # so that an outlier does not dominate
    smallest = torch.linalg.svdvals(weight * columns)[-1]
    return bool(smallest <= _ROUNDINGS * eps * torch.linalg.vector_norm(weight * rounding))


def local_dimension(distances: Tensor) -> float:
    """Dimension of the support, from distances (N, k) to the nearest neighbours; NaN if k = 1.

    From the first to the k-th neighbour, log r grows by (psi(k) - psi(1)) / dimension (Levina &
    Bickel 2004).
    """
    growth = distances[:, -1].log() - distances[:, 0].log()
    mean = float(growth[torch.isfinite(growth)].mean())
    k = distances.shape[1]
    return (caveats.digamma(k) - caveats.digamma(1)) / mean if k > 1 and mean > 0 else float("nan")


def thin(distances: Tensor, dim: int) -> list[str]:
    """Warns of rows that vary in fewer directions than a Gaussian with the same columns."""
    count, k = distances.shape
    found = local_dimension(distances)
    if not 0 < found < dim:
        return []
    spread = caveats.gaussian_log_radius(count, k, dim) - caveats.gaussian_log_radius(count, 1, dim)
    expected = (caveats.digamma(k) - caveats.digamma(1)) / spread
    noise = dim / (count * (k - 1)) ** 0.5
    if expected - found <= max(0.7, 0.15 * dim, 4 * noise):
        return []
    return [
        f"Neighbours vary in about {found:.1f} of {dim} directions: on a curved surface the "
        "entropy is -inf, and on a thin layer it is below the estimate. Use coordinates on the "
        "surface, fewer columns or more samples."
    ]
