"""Kernels for nearest neighbors and range counts by direct differences, without an N x N matrix.

The score of two rows in a block of columns is their squared Euclidean distance or their largest
absolute difference. The score of two rows is the largest of their scores in the blocks. Columns are
added in order and no product is fused into a sum, so float64 scores equal those of a simple float64
loop bit for bit. Rows are sorted by class. The candidate neighbors of a row lie in one range of
rows; a row is not its own neighbor.

Oracles: `nearest` and `count_nearer` in tests/twins.py.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ncfast.kernels.configuration import NeighborsConfig, power_of_two
from ncfast.kernels.launch import on

# fusing a product into a sum would change the bits of a simple loop
_OPTIONS = {"enable_fp_fusion": False}
MOST = 32  # largest number of neighbors that a thread block can hold

_NOBODY = tl.constexpr(1 << 30)  # above any row number; marks an empty slot


@triton.jit
def block_score(points, row, col, live, inside, low, high, count, EUCLIDEAN: tl.constexpr):
    """Scores of the rows ``row`` against the rows ``col``, over columns low to high - 1."""
    total = tl.zeros([row.shape[0], col.shape[0]], points.dtype.element_ty)
    for c in tl.range(low, high):
        line = points + c * count.to(tl.int64)
        x = tl.load(line + row, mask=live, other=0.0)
        y = tl.load(line + col, mask=inside, other=0.0)
        gap = x[:, None] - y[None, :]
        total = total + gap * gap if EUCLIDEAN else tl.maximum(total, tl.abs(gap))
    return total


@triton.jit(do_not_specialize=["count", "dim"])
def nearest(
    points,  # (L, D, N)
    starts,  # (BLOCKS + 1,) int32, the first column of each block and D
    begins,  # (N,) int32: the candidate neighbors of a row are rows begins to ends - 1
    ends,
    scores,  # (L, N, K): ascending; infinite in empty slots
    indices,  # (L, N, K) int32: the smaller wins a tie; -1 in empty slots
    extents,  # (L, BLOCKS, N): largest score within a block among the neighbors
    count,
    dim,
    K: tl.constexpr,
    SLOTS: tl.constexpr,  # a power of two, at least K
    BLOCKS: tl.constexpr,
    EUCLIDEAN: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """One program per tile of rows and layer; the grid is (tiles, L)."""
    layer = tl.program_id(1).to(tl.int64)
    points += layer * dim * count
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = row < count
    begin = tl.load(begins + row, mask=live, other=_NOBODY)
    end = tl.load(ends + row, mask=live, other=0)
    lane = tl.arange(0, COLS)
    slot = tl.arange(0, SLOTS)[None, :]
    # slots past K hold -inf, which is never the largest; the others inf, never the smallest
    free = tl.where(slot < K, float("inf"), float("-inf")).to(scores.dtype.element_ty)
    best = tl.zeros([ROWS, SLOTS], scores.dtype.element_ty) + free
    index = tl.zeros([ROWS, SLOTS], tl.int32) + tl.where(slot < K, _NOBODY + slot, -1)
    last = tl.max(best, 1)
    for first in tl.range(tl.min(begin, 0), tl.max(end, 0), COLS):
        col = first + lane
        inside = col < count
        score = tl.zeros([ROWS, COLS], scores.dtype.element_ty)
        for block in tl.static_range(BLOCKS):
            low, high = tl.load(starts + block), tl.load(starts + block + 1)
            part = block_score(points, row, col, live, inside, low, high, count, EUCLIDEAN)
            score = tl.maximum(score, part)
        allowed = (col[None, :] >= begin[:, None]) & (col[None, :] < end[:, None])
        allowed &= col[None, :] != row[:, None]
        score = tl.where(allowed, score, float("inf"))
        least = tl.min(score, 1)
        while tl.max((least < last).to(tl.int32), 0) > 0:
            where = tl.argmin(score, 1)
            # the worst of the k is replaced: of equal scores the one with the largest index
            leaving = tl.max(tl.where(best == last[:, None], index, -1), 1)
            gone = (index == leaving[:, None]) & (least < last)[:, None]
            best = tl.where(gone, least[:, None], best)
            index = tl.where(gone, (first + where)[:, None], index)
            score = tl.where(lane[None, :] == where[:, None], float("inf"), score)
            last = tl.max(best, 1)
            least = tl.min(score, 1)

    found = (index >= 0) & (index < _NOBODY)
    for block in tl.static_range(BLOCKS):
        low, high = tl.load(starts + block), tl.load(starts + block + 1)
        reach = tl.zeros([ROWS, SLOTS], scores.dtype.element_ty)
        for c in tl.range(low, high):
            line = points + c * count.to(tl.int64)
            x = tl.load(line + row, mask=live, other=0.0)
            gap = x[:, None] - tl.load(line + index, mask=found & live[:, None], other=0.0)
            reach = reach + gap * gap if EUCLIDEAN else tl.maximum(reach, tl.abs(gap))
        # an empty slot makes the extent infinite, like the radius
        reach = tl.where(found, reach, free)
        place = extents + (layer * BLOCKS + block) * count + row
        tl.store(place, tl.max(reach, 1), mask=live)

    best = tl.where(slot < K, best, float("inf"))
    index = tl.where(slot < K, index, 2 * (_NOBODY - 1))
    place = (layer * count + row) * K
    for rank in tl.range(0, K):
        least = tl.min(best, 1)
        name = tl.min(tl.where(best == least[:, None], index, 2 * (_NOBODY - 1)), 1)
        tl.store(scores + place + rank, least, mask=live)
        tl.store(indices + place + rank, tl.where(name < _NOBODY, name, -1), mask=live)
        taken = index == name[:, None]
        best = tl.where(taken, float("inf"), best)
        index = tl.where(taken, 2 * (_NOBODY - 1), index)


@triton.jit(do_not_specialize=["count", "dim"])
def count_nearer(
    points,  # (L, D, N)
    starts,  # (BLOCKS + 1,) int32
    begins,  # (N,) int32
    ends,
    limits,  # (L, BLOCKS + 1, N): bounds on the score in each block, then on their maximum
    counts,  # (L, BLOCKS + 1, N) int32: rows whose score is below the limit
    count,
    dim,
    BLOCKS: tl.constexpr,
    PARTS: tl.constexpr,  # a power of two, at least BLOCKS + 1
    EUCLIDEAN: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """One program per tile of rows and layer; the grid is (tiles, L)."""
    layer = tl.program_id(1).to(tl.int64)
    points += layer * dim * count
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = row < count
    begin = tl.load(begins + row, mask=live, other=_NOBODY)
    end = tl.load(ends + row, mask=live, other=0)
    limits += layer * (BLOCKS + 1) * count + row
    part = tl.arange(0, PARTS)[None, :]
    number = tl.zeros([ROWS, PARTS], tl.int32)
    for first in tl.range(tl.min(begin, 0), tl.max(end, 0), COLS):
        col = first + tl.arange(0, COLS)
        inside = col < count
        allowed = (col[None, :] >= begin[:, None]) & (col[None, :] < end[:, None])
        allowed &= col[None, :] != row[:, None]
        whole = tl.zeros([ROWS, COLS], points.dtype.element_ty)
        for block in tl.static_range(BLOCKS):
            low, high = tl.load(starts + block), tl.load(starts + block + 1)
            score = block_score(points, row, col, live, inside, low, high, count, EUCLIDEAN)
            whole = tl.maximum(whole, score)
            limit = tl.load(limits + block * count, mask=live, other=0.0)
            nearer = tl.sum((allowed & (score < limit[:, None])).to(tl.int32), 1)
            number += tl.where(part == block, nearer[:, None], 0)
        limit = tl.load(limits + BLOCKS * count, mask=live, other=0.0)
        nearer = tl.sum((allowed & (whole < limit[:, None])).to(tl.int32), 1)
        number += tl.where(part == BLOCKS, nearer[:, None], 0)
    place = (layer * (BLOCKS + 1) + part) * count + row[:, None]
    tl.store(counts + place, number, mask=live[:, None] & (part <= BLOCKS))


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
