"""What only a second pass over the features can tell, block by block, in float64.

Residuals x - mu_c are taken before any product, so nothing cancels however collapsed the classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ncfast.moments import ClassMoments

_BLOCK_CPU, _BLOCK_GPU = 1 << 20, 1 << 24  # elements of a float64 block of rows
_CLASSES = 4096  # columns of a block of scores


def blocks(feats: Tensor, labels: Tensor, width: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Float64 row blocks and their int64 labels; labels out of range are the caller's to fold."""
    budget = _BLOCK_CPU if feats.device.type == "cpu" else _BLOCK_GPU
    rows = max(1, budget // max(feats.shape[1], width))
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
    total = means.new_zeros((means.shape[1], means.shape[1]))
    for residual, _ in residuals(feats, labels, means):
        total.addmm_(residual.T, residual)
    return total


def projected(feats: Tensor, labels: Tensor, means: Tensor, directions: Tensor) -> Tensor:
    """Sum over samples of <x_i - mu_c, v>^2 for each row v of ``directions`` (R, D), (R,)."""
    total = means.new_zeros(directions.shape[0])
    for residual, _ in residuals(feats, labels, means):
        total += (residual @ directions.T).square_().sum(0)
    return total


def decisions(
    feats: Tensor, moments: ClassMoments, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Index of the nearest present class mean and of the largest logit, (N,) int64 each.

    Ties go to the smaller index. Without a classifier the second is -1.
    """
    centre = moments.mean_of_means
    means = moments.centred_means
    # norm(x - mu)^2 orders as norm(mu)^2 / 2 - <x, mu>; centring keeps it from cancelling
    offset = torch.where(moments.present, -means.square().sum(1) / 2, -torch.inf)
    nearest, chosen = [], []
    width = min(_CLASSES, means.shape[0])
    unlabelled = torch.zeros(feats.shape[0], dtype=torch.int64, device=feats.device)
    for x, y in blocks(feats, unlabelled, width):
        nearest.append(_argmax(x - centre, means, offset))
        chosen.append(y - 1 if weight is None else _argmax(x, weight, bias))
    return torch.cat(nearest), torch.cat(chosen)


def _argmax(x: Tensor, rows: Tensor, offset: Tensor | None) -> Tensor:
    """argmax_c <x, rows_c> + offset_c, over blocks of classes."""
    best = x.new_full((x.shape[0],), -torch.inf)
    index = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    for start in range(0, rows.shape[0], _CLASSES):
        width = min(_CLASSES, rows.shape[0] - start)
        part = rows.narrow(0, start, width)
        scores = (
            x @ part.T if offset is None else torch.addmm(offset.narrow(0, start, width), x, part.T)
        )
        value, where = scores.max(1)
        index = torch.where(value > best, where + start, index)
        best = torch.maximum(best, value)
    return index
