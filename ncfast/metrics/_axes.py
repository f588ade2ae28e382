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


def significant(eigenvalues: Tensor, dim: int) -> Tensor:
    """Which eigenvalues of a covariance count as nonzero: above dim * eps of the largest.

    The cutoff of `numpy.linalg.pinv` and `torch.linalg.pinv` for a (dim, dim) matrix.
    """
    cutoff = dim * torch.finfo(eigenvalues.dtype).eps
    return eigenvalues > cutoff * eigenvalues.amax()
