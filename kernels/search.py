"""Launches the neighbor search kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ncfast.kernels.configuration import NeighborsConfig, power_of_two
from ncfast.kernels.launch import on
from ncfast.kernels.neighbors import count_nearer, nearest

# fusing a product into a sum would change the bits of a simple loop
_OPTIONS = {"enable_fp_fusion": False}
MOST = 32  # largest number of neighbors that a thread block can hold


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
        points: (L, D, N) contiguous, float32 or float64, finite; scores have this type.
        starts: the first column of each block, and D.
        ranges: begins and ends, both (N,) int32; the candidate neighbors of a row are rows
            begins to ends - 1.
        k: at most `MOST`.
        euclidean: True for squared Euclidean scores, False for the largest absolute difference.
        config: the launch configuration.

    Returns:
        Scores (L, N, k), ascending; indices (L, N, k) int32; extents (L, BLOCKS, N), the largest
        score within a block among the neighbors. A row with fewer than k candidates has infinite
        scores and extents, and indices of -1.
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
    """Number of other rows whose score is below ``limits`` (L, BLOCKS + 1, N): int32, same shape.

    The first BLOCKS entries count by the score in each block, the last by the largest score of all
    blocks. Other arguments as in `nearest_rows`.
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
    # filled on the device value by value: a copy from the host would synchronise
    made = [torch.full((), start, dtype=torch.int32, device=points.device) for start in starts]
    return torch.stack(made)
