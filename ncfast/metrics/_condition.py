"""Condition numbers by operations that never wait for an accelerator.

No library routine for singular values runs on CUDA without the host looking at its convergence.
What does is a QR decomposition, the inverse of its triangle R, and products: the largest
eigenvalue of a positive semidefinite G is the limit of trace(G^p)^(1/p), and 44 squarings make
p = 2^44, which leaves a relative error of log(K) / 2^44; the rounding of the j-th squaring is
divided by 2^j. sigma_max^2 is that of R^T R, sigma_min^-2 that of R^-1 R^-T, which is as accurate
as singular values are: to a rounding times the condition number.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ncfast.metrics._axes import rank_cutoff

_SQUARINGS = 44


class _Zero(NamedTuple):
    """What `nonzero_singular` compares with: a share of the largest value or of the mean norm."""

    share: float
    norm_mean: Tensor  # ()


def condition(
    matrix: Tensor, present: Tensor, norm_mean: Tensor, *, centred: bool = False
) -> Tensor:
    """Largest over smallest singular value of the present rows of ``matrix`` (K, D), ().

    Args:
        matrix: zero rows for absent classes.
        present: (K,) bool.
        norm_mean: mean norm of the features, (), see `nonzero_singular`.
        centred: the rows sum to zero, so that one more singular value is zero and left out.

    Returns:
        Infinite for linearly dependent rows; NaN without a row, or for a single centred one.
    """
    number, dim = matrix.shape
    zero = _Zero(rank_cutoff(max(number, dim)), norm_mean)
    if number <= dim:
        return _of_rows(matrix, present, centred, zero)
    # at most D rows fit into the wide form: the present ones come first
    first = torch.argsort(present.logical_not().to(torch.int8), stable=True).narrow(0, 0, dim)
    few = _of_rows(matrix.index_select(0, first), present.index_select(0, first), centred, zero)
    many = _of_triangle(torch.linalg.qr(matrix, mode="r").R, zero)
    return torch.where(present.sum() <= dim, few, many)


def _of_rows(matrix: Tensor, present: Tensor, centred: bool, zero: _Zero) -> Tensor:
    """The same for K <= D; singular values that must be zero become the root mean square one."""
    count = present.sum().to(matrix.dtype)
    filler = torch.linalg.matrix_norm(matrix) / (count - int(centred)).sqrt()
    columns = [matrix, torch.diag(torch.where(present, 0.0, filler))]
    if centred:
        columns.append((present.to(matrix.dtype) * (filler / count.sqrt())).unsqueeze(1))
    return _of_triangle(torch.linalg.qr(torch.cat(columns, 1).T, mode="r").R, zero)


def _of_triangle(triangle: Tensor, zero: _Zero) -> Tensor:
    identity = torch.eye(len(triangle), dtype=triangle.dtype, device=triangle.device)
    inverse = torch.linalg.solve_triangular(triangle, identity, upper=True)
    grams = torch.stack([triangle.T @ triangle, inverse @ inverse.T])
    largest, inverse_smallest = (_log_largest_eigenvalue(grams) / 2).unbind()
    cutoff = zero.share * torch.maximum(largest.exp(), zero.norm_mean)
    # the diagonal bounds the smallest one where its inverse is out of range
    pivot = triangle.diagonal().abs().amin()
    singular = ((-inverse_smallest).exp() <= cutoff) | (pivot <= zero.share * zero.norm_mean)
    value = (largest + inverse_smallest).exp()
    return torch.where(singular, torch.inf, value) + 0 * triangle.sum()


def _log_largest_eigenvalue(power: Tensor) -> Tensor:
    """Of each of a batch of positive semidefinite matrices (..., K, K)."""
    total = power.new_zeros(power.shape[:-2])
    for squaring in range(_SQUARINGS + 1):
        trace = power.diagonal(dim1=-2, dim2=-1).sum(-1)
        total = total + trace.log() / 2.0**squaring
        power = power / trace.unsqueeze(-1).unsqueeze(-1)
        power = power @ power
    return total
