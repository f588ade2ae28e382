"""The launches of searches for neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ncfast.kernels.configuration import NeighborsConfig, power_of_two
from ncfast.kernels.launch import on
from ncfast.kernels.neighbors import count_nearer, nearest

# a product fused into a sum would no longer be what a plain loop gives
_OPTIONS = {"enable_fp_fusion": False}
MOST = 32  # neighbours that a thread block can hold


def nearest_rows(
    points: Tensor,
    starts: Sequence[int],
    ranges: tuple[Tensor, Tensor],
    k: int,
    euclidean: bool,
    config: NeighborsConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """The k nearest rows of every row, in each of L layers.

    Args:
        points: (L, D, N) contiguous, float32 or float64, finite: scores are of this type.
        starts: the first column of each block, and D.
        ranges: two of (N,) int32; rows begins to ends - 1 may be neighbours of a row.
        k: at most `MOST`.
        euclidean: squared Euclidean scores, or maxima of absolute differences.
        config: the launch.

    Returns:
        Scores (L, N, k), ascending; indices (L, N, k) int32; extents (L, BLOCKS, N), the largest
        score within a block among the neighbours. Infinite, and -1, where nobody is left.
    """
    layers, dim, count = points.shape
    made = {"dtype": points.dtype, "device": points.device}
    scores = torch.empty((layers, count, k), **made)
    indices = torch.empty((layers, count, k), dtype=torch.int32, device=points.device)
    extents = torch.empty((layers, len(starts) - 1, count), **made)
    with on(points.device):
        nearest[(-(-count // config.tile_rows), layers)](
            points, _column_starts(starts, points), *ranges, scores, indices, extents, count, dim,
            K=k, SLOTS=power_of_two(k), BLOCKS=len(starts) - 1, EUCLIDEAN=euclidean,
            ROWS=config.tile_rows, COLS=config.tile_cols, num_warps=config.warps, **_OPTIONS,
        )  # fmt: skip
    return scores, indices, extents


def count_rows(
    points: Tensor,
    starts: Sequence[int],
    ranges: tuple[Tensor, Tensor],
    limits: Tensor,
    euclidean: bool,
    config: NeighborsConfig,
) -> Tensor:
    """How many other rows score less than ``limits`` (L, BLOCKS + 1, N): int32 of that shape.

    In each block, and by the largest score of all blocks. Other arguments as in `nearest_rows`.
    """
    layers, dim, count = points.shape
    blocks = len(starts) - 1
    counts = torch.empty(limits.shape, dtype=torch.int32, device=points.device)
    with on(points.device):
        count_nearer[(-(-count // config.tile_rows), layers)](
            points, _column_starts(starts, points), *ranges, limits, counts, count, dim,
            BLOCKS=blocks, PARTS=power_of_two(blocks + 1), EUCLIDEAN=euclidean,
            ROWS=config.tile_rows, COLS=config.tile_cols, num_warps=config.warps, **_OPTIONS,
        )  # fmt: skip
    return counts


def _column_starts(starts: Sequence[int], points: Tensor) -> Tensor:
    # filled on the device, value by value: a copy from the host would wait for it
    made = [torch.full((), start, dtype=torch.int32, device=points.device) for start in starts]
    return torch.stack(made)
