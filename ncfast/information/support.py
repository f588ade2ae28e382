"""Detects rows without a density: rows in a plane, on a sphere or on another thin support."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ncfast.information.caveats import digamma, gaussian_log_radius

_ROUNDINGS = 2  # a singular value below this many rounding errors counts as zero
_EPS = torch.finfo(torch.float64).eps


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
    return (digamma(k) - digamma(1)) / mean if k > 1 and mean > 0 else float("nan")


def thin(distances: Tensor, dim: int) -> list[str]:
    """Warns of rows that vary in fewer directions than a Gaussian with the same columns."""
    count, k = distances.shape
    found = local_dimension(distances)
    if not 0 < found < dim:
        return []
    spread = gaussian_log_radius(count, k, dim) - gaussian_log_radius(count, 1, dim)
    expected = (digamma(k) - digamma(1)) / spread
    noise = dim / (count * (k - 1)) ** 0.5
    if expected - found <= max(0.7, 0.15 * dim, 4 * noise):
        return []
    return [
        f"Neighbours vary in about {found:.1f} of {dim} directions: on a curved surface the "
        "entropy is -inf, and on a thin layer it is below the estimate. Use coordinates on the "
        "surface, fewer columns or more samples."
    ]
