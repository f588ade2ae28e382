"""Features block by block in float64, for passes after the first."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_BLOCK_CPU, _BLOCK_GPU = 1 << 20, 1 << 24  # elements of a float64 block of rows


def _block_rows(feats: Tensor, width: int) -> int:
    budget = _BLOCK_CPU if feats.device.type == "cpu" else _BLOCK_GPU
    return max(1, budget // max(feats.shape[1], width))


def rows_of(feats: Tensor, width: int = 0) -> Iterator[Tensor]:
    """Row blocks in float64, for results ``width`` wide."""
    for x in feats.split(_block_rows(feats, width)):
        yield x.to(torch.float64)


def residuals(
    feats: Tensor, labels: Tensor, means: Tensor, width: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of x_i - mu_c, taken before any product, and of labels folded into 0..K-1.

    Moments of labels out of range are NaN, and so are the means.
    """
    rows = _block_rows(feats, width)
    for x, y in zip(feats.split(rows), labels.split(rows), strict=True):
        label = y.to(torch.int64).clamp(0, means.shape[0] - 1)
        yield x.to(torch.float64) - means.index_select(0, label), label
