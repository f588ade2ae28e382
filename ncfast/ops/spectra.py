"""Singular values, principal axes and condition numbers of (..., K, D) matrices, never squared.

A condition number comes from singular values on a CPU. No library routine for these runs on CUDA
without the host reading its convergence. A QR decomposition, the inverse of its triangle R, and
products do: the largest eigenvalue of a positive semidefinite G is the limit of
trace(G^p)^(1/p), and 44 squarings make p = 2^44, which leaves a relative error of log(K) / 2^44;
the rounding of the j-th squaring is divided by 2^j. sigma_max^2 is that of R^T R, sigma_min^-2 that
of R^-1 R^-T, which is as accurate as singular values are: to a rounding times the condition number.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ncfast._validate import is_on_host

_SQUARINGS = 44


class Axes(NamedTuple):
    """The R = min(K, D) principal axes of a (..., K, D) matrix, largest first."""

    values: Tensor  # (..., R) singular values
    directions: Tensor  # (..., R, D) right singular vectors


class AxisSums(NamedTuple):
    """Sums of v^T Sigma_W v / sigma_r^2 over principal axes of the centred class means, ()."""

    significant: Tensor  # over those that `significant` keeps; NaN without one
    leading: Tensor  # over the first P - 1 of P present classes; NaN if P < 2


def _finite_or_zero(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix, zero where it is not finite (LAPACK raises on NaN); and NaN there, else zero."""
    usable = torch.isfinite(matrix).all(-1).all(-1)
    nan = torch.where(usable, 0.0, torch.nan).to(matrix.dtype)
    return torch.where(usable.unsqueeze(-1).unsqueeze(-1), matrix, 0.0), nan.unsqueeze(-1)


def principal_axes(matrix: Tensor) -> Axes:
    """Singular values and right singular vectors; NaN throughout if the matrix is not finite.

    A tall matrix is first reduced to its (D, D) triangle, so nothing of size K x K appears and
    small singular values keep the accuracy that forming the Gram matrix would lose.
    """
    safe, nan = _finite_or_zero(matrix)
    if safe.shape[-2] > safe.shape[-1] and not safe.requires_grad:  # R alone has no gradient
        safe = torch.linalg.qr(safe, mode="r").R
    _, values, directions = torch.linalg.svd(safe, full_matrices=False)
    return Axes(values + nan, directions + nan.unsqueeze(-1))


def singular_values(matrix: Tensor) -> Tensor:
    """The min(K, D) singular values, largest first; NaN if the matrix is not finite."""
    safe, nan = _finite_or_zero(matrix)
    if safe.shape[-2] > 2 * safe.shape[-1] and not safe.requires_grad:
        safe = torch.linalg.qr(safe, mode="r").R
    return torch.linalg.svdvals(safe) + nan


def eigen(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest first, clamped at zero, and eigenvectors in rows, of (..., D, D)."""
    safe, nan = _finite_or_zero(symmetric)
    values, vectors = torch.linalg.eigh(safe)
    return values.flip(-1).clamp(min=0) + nan, vectors.mT.flip(-2)


def eigenvalues(symmetric: Tensor) -> Tensor:
    """Eigenvalues, largest first, clamped at zero, of (..., D, D); NaN where it is not finite."""
    safe, nan = _finite_or_zero(symmetric)
    return torch.linalg.eigvalsh(safe).flip(-1).clamp(min=0) + nan


def rank_cutoff(size: int, dtype: torch.dtype = torch.float64) -> float:
    """Values of a spectrum at or below this share of the largest count as zero: size * eps.

    The cut-off of `numpy.linalg.matrix_rank` and `torch.linalg.pinv` for a matrix whose larger
    side is ``size``. Every decision about a rank uses it; `rank_cutoff` in
    csrc/summary/spectrum.h is the same.
    """
    return size * torch.finfo(dtype).eps


def significant(values: Tensor, size: int) -> Tensor:
    """Which singular values, or eigenvalues, (..., R) of a matrix of that size are nonzero."""
    return values > rank_cutoff(size, values.dtype) * values.amax(-1, keepdim=True)


def negligible(size: int, norm_mean: Tensor) -> Tensor:
    """The norm at or below which a centred class mean counts as zero, (...).

    A mean of features carries rounding errors in proportion to their norms: `rank_cutoff` times
    ``norm_mean`` (...), the mean norm of the features. A mean that is no farther from the mean of
    means has no direction; `ClassRow::negligible` in csrc/summary/class_row.h is the same.
    """
    return rank_cutoff(size) * norm_mean


def nonzero_singular(values: Tensor, size: int, norm_mean: Tensor) -> Tensor:
    """Singular values (..., R) of class means, centred or not, with zeros made exact.

    A mean of features carries rounding errors in proportion to their norms, so the cut-off never
    falls below `rank_cutoff` times ``norm_mean`` (...), the mean norm of the features.
    """
    scale = torch.maximum(values.amax(-1), norm_mean).unsqueeze(-1)
    return torch.where(values <= rank_cutoff(size, values.dtype) * scale, 0.0, values)


def entropy_rank(singular: Tensor) -> Tensor:
    """Exponential entropy of the normalised singular values (..., R)."""
    share = singular / singular.sum(-1, keepdim=True)
    logarithm = torch.where(share > 0, share, 1.0).log()  # that of zero has no gradient
    return (-share * logarithm).sum(-1).exp()


def stable_rank(singular: Tensor) -> Tensor:
    """Sum of the squares of singular values (..., R), largest first, over the largest square."""
    return (singular / singular.narrow(-1, 0, 1)).square().sum(-1)


def condition(
    matrix: Tensor, present: Tensor, norm_mean: Tensor, *, centred: bool = False
) -> Tensor:
    """Largest over smallest singular value of the present rows of ``matrix``, (...).

    Args:
        matrix: (..., K, D), zero rows for absent classes.
        present: (..., K) bool.
        norm_mean: mean norm of the features, (...), see `nonzero_singular`.
        centred: the rows sum to zero, so that one more singular value is zero and left out.

    Returns:
        Infinite for linearly dependent rows; NaN without a row, or for a single centred one.
    """
    # what follows instead waits for an accelerator, and has a gradient
    if not (is_on_host(matrix) or matrix.requires_grad):
        return condition_by_squaring(matrix, present, norm_mean, centred=centred)
    # absent classes are zero rows: they only append zero singular values
    singular = nonzero_singular(singular_values(matrix), max(matrix.shape[-2:]), norm_mean)
    rank = present.sum(-1) - int(centred)
    rank = rank.clamp(max=singular.shape[-1])
    smallest = singular.gather(-1, (rank - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)
    ratio = torch.where(smallest == 0, torch.inf, singular.amax(-1) / smallest)
    return torch.where(rank > 0, ratio, torch.nan)


class _Zero(NamedTuple):
    """What `nonzero_singular` compares with: a share of the largest value or of the mean norm."""

    share: float
    norm_mean: Tensor  # (...)


def condition_by_squaring(
    matrix: Tensor, present: Tensor, norm_mean: Tensor, *, centred: bool = False
) -> Tensor:
    """`condition` by operations that never wait for an accelerator."""
    number, dim = matrix.shape[-2:]
    zero = _Zero(rank_cutoff(max(number, dim)), norm_mean)
    if number <= dim:
        return _of_rows(matrix, present, centred, zero)
    # at most D rows fit into the wide form: the present ones come first
    first = torch.argsort(present.logical_not().to(torch.int8), dim=-1, stable=True)
    first = first.narrow(-1, 0, dim)
    rows = matrix.gather(-2, first.unsqueeze(-1).expand(*first.shape, dim))
    few = _of_rows(rows, present.gather(-1, first), centred, zero)
    many = _of_triangle(torch.linalg.qr(matrix, mode="r").R, zero)
    return torch.where(present.sum(-1) <= dim, few, many)


def _of_rows(matrix: Tensor, present: Tensor, centred: bool, zero: _Zero) -> Tensor:
    """The same for K <= D; singular values that must be zero become the root mean square one."""
    count = present.sum(-1).to(matrix.dtype)
    filler = torch.linalg.matrix_norm(matrix) / (count - int(centred)).sqrt()
    columns = [matrix, torch.diag_embed(torch.where(present, 0.0, filler.unsqueeze(-1)))]
    if centred:
        share = (filler / count.sqrt()).unsqueeze(-1)
        columns.append((present.to(matrix.dtype) * share).unsqueeze(-1))
    return _of_triangle(torch.linalg.qr(torch.cat(columns, -1).mT, mode="r").R, zero)


def _of_triangle(triangle: Tensor, zero: _Zero) -> Tensor:
    identity = torch.eye(triangle.shape[-1], dtype=triangle.dtype, device=triangle.device)
    inverse = torch.linalg.solve_triangular(triangle, identity, upper=True)
    grams = torch.stack([triangle.mT @ triangle, inverse @ inverse.mT])
    largest, inverse_smallest = (_log_largest_eigenvalue(grams) / 2).unbind()
    cutoff = zero.share * torch.maximum(largest.exp(), zero.norm_mean)
    # the diagonal bounds the smallest one where its inverse is out of range
    pivot = triangle.diagonal(dim1=-2, dim2=-1).abs().amin(-1)
    singular = ((-inverse_smallest).exp() <= cutoff) | (pivot <= zero.share * zero.norm_mean)
    value = (largest + inverse_smallest).exp()
    return torch.where(singular, torch.inf, value) + 0 * triangle.sum((-2, -1))


def _log_largest_eigenvalue(power: Tensor) -> Tensor:
    """Of each of a batch of positive semidefinite matrices (..., K, K)."""
    total = power.new_zeros(power.shape[:-2])
    for squaring in range(_SQUARINGS + 1):
        trace = power.diagonal(dim1=-2, dim2=-1).sum(-1)
        total = total + trace.log() / 2.0**squaring
        power = power / trace.unsqueeze(-1).unsqueeze(-1)
        power = power @ power
    return total
