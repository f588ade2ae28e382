"""What only a second pass over the features can tell, block by block, in float64.

Residuals x - mu_c are taken before any product, so nothing cancels however collapsed the classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_BLOCK_CPU, _BLOCK_GPU = 1 << 20, 1 << 24  # elements of a float64 block of rows


def _block_rows(feats: Tensor, width: int) -> int:
    budget = _BLOCK_CPU if feats.device.type == "cpu" else _BLOCK_GPU
    return max(1, budget // max(feats.shape[1], width))


def rows_of(feats: Tensor) -> Iterator[Tensor]:
    """Row blocks in float64."""
    for x in feats.split(_block_rows(feats, 0)):
        yield x.to(torch.float64)


def blocks(feats: Tensor, labels: Tensor, width: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Float64 row blocks and their int64 labels, for results ``width`` wide.

    Labels out of range are the caller's to fold.
    """
    rows = _block_rows(feats, width)
    for x, y in zip(feats.split(rows), labels.split(rows), strict=True):
        yield x.to(torch.float64), y.to(torch.int64)


def residuals(
    feats: Tensor, labels: Tensor, means: Tensor, width: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of x_i - mu_c and labels folded into 0..K-1."""
    for x, y in blocks(feats, labels, width):
        y = y.clamp(0, means.shape[0] - 1)  # moments of such labels are NaN, and so are the means
        yield x - means.index_select(0, y), y


def scatter(feats: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """Sum of (x_i - mu_c)(x_i - mu_c)^T, (D, D)."""
    dim = means.shape[1]
    total = means.new_zeros((dim, dim))
    # the upper triangle in panels: there is no symmetric product, and this saves 3/8 of the work
    width = max(64, -(-dim // 4))
    for residual, _ in residuals(feats, labels, means):
        for start in range(0, dim, width):
            rows, right = min(width, dim - start), residual.narrow(1, start, dim - start)
            panel = total.narrow(0, start, rows).narrow(1, start, dim - start)
            panel.addmm_(right.narrow(1, 0, rows).T, right)
    upper = total.triu(1)
    return upper + upper.T + torch.diag(total.diagonal())


def projected(feats: Tensor, labels: Tensor, means: Tensor, directions: Tensor) -> Tensor:
    """Sum over samples of <x_i - mu_c, v>^2 for each row v of ``directions`` (R, D), (R,)."""
    total = means.new_zeros(directions.shape[0])
    for residual, _ in residuals(feats, labels, means):
        total += (residual @ directions.T).square_().sum(0)
    return total
