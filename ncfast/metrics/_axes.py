"""Singular values and directions of the class means, from the smaller side and never squared."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Axes(NamedTuple):
    """The R = min(K, D) principal axes of a (K, D) matrix, largest first."""

    values: Tensor  # (R,) singular values
    directions: Tensor  # (R, D) right singular vectors


def principal_axes(matrix: Tensor) -> Axes:
    """Singular values and right singular vectors; NaN throughout if the matrix is not finite.

    A tall matrix is first reduced to its (D, D) triangle, so nothing of size K x K appears and
    small singular values keep the accuracy that forming the Gram matrix would lose.
    """
    usable = torch.isfinite(matrix).all()  # LAPACK raises on NaN: show it zeros
    safe = torch.where(usable, matrix, 0.0)
    if safe.shape[0] > safe.shape[1]:
        safe = torch.linalg.qr(safe, mode="r").R
    _, values, directions = torch.linalg.svd(safe, full_matrices=False)
    nan = torch.where(usable, 0.0, torch.nan).to(matrix.dtype)
    return Axes(values + nan, directions + nan)


def singular_values(matrix: Tensor) -> Tensor:
    """The min(K, D) singular values, largest first; NaN if the matrix is not finite."""
    usable = torch.isfinite(matrix).all()
    safe = torch.where(usable, matrix, 0.0)
    if safe.shape[0] > 2 * safe.shape[1]:
        safe = torch.linalg.qr(safe, mode="r").R
    return torch.linalg.svdvals(safe) + torch.where(usable, 0.0, torch.nan).to(matrix.dtype)


def eigen(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest first, clamped at zero, and eigenvectors in rows, of a (D, D) matrix."""
    usable = torch.isfinite(symmetric).all()
    values, vectors = torch.linalg.eigh(torch.where(usable, symmetric, 0.0))
    nan = torch.where(usable, 0.0, torch.nan).to(symmetric.dtype)
    return values.flip(0).clamp(min=0) + nan, vectors.T.flip(0)


def eigenvalues(symmetric: Tensor) -> Tensor:
    """Eigenvalues, largest first, clamped at zero, of a (D, D) matrix; NaN if it is not finite."""
    usable = torch.isfinite(symmetric).all()
    values = torch.linalg.eigvalsh(torch.where(usable, symmetric, 0.0))
    return values.flip(0).clamp(min=0) + torch.where(usable, 0.0, torch.nan).to(symmetric.dtype)


def rank_cutoff(size: int, dtype: torch.dtype = torch.float64) -> float:
    """Values of a spectrum at or below this share of the largest count as zero: size * eps.

    The cut-off of `numpy.linalg.matrix_rank` and `torch.linalg.pinv` for a matrix whose larger
    side is ``size``. Every decision about a rank uses it; `rank_cutoff` in csrc/spectrum.h is the
    same.
    """
    return size * torch.finfo(dtype).eps


def significant(values: Tensor, size: int) -> Tensor:
    """Which singular values, or eigenvalues, of a matrix of that size count as nonzero."""
    return values > rank_cutoff(size, values.dtype) * values.amax()


def nonzero_singular(values: Tensor, size: int, norm_mean: Tensor) -> Tensor:
    """Singular values of class means, centred or not, with zeros made exact.

    A mean of features carries rounding errors in proportion to their norms, so the cut-off never
    falls below `rank_cutoff` times ``norm_mean``, the mean norm of the features.
    """
    scale = torch.maximum(values.amax(), norm_mean)
    return torch.where(values <= rank_cutoff(size, values.dtype) * scale, 0.0, values)


def ratio_of_ends(largest: Tensor, smallest: Tensor) -> Tensor:
    """Condition number: infinite where the smallest singular value is zero, the largest too."""
    return torch.where(smallest == 0, torch.inf, largest / smallest)
