"""Nearest neighbours and range counts by direct differences, nothing N x N in memory.

A score is a squared Euclidean distance, or a maximum of absolute differences, within a block of
columns; that of a row is the largest of its blocks. Columns are added in their order and no product
is fused into a sum, so float64 scores are those of a plain float64 loop, bit for bit. Rows are
sorted by class: those that may be neighbours of a row lie in one range, the row itself left out.

Twins in plain torch: `ncfast.kernels.twins.nearest`, `ncfast.kernels.twins.count_nearer`.
"""

import triton
import triton.language as tl

_NOBODY = tl.constexpr(1 << 30)  # above any row number: the place of a neighbour not found yet


@triton.jit
def block_score(points, row, col, live, inside, low, high, count, EUCLIDEAN: tl.constexpr):
    """Scores (rows, columns) between two sets of points, over columns low to high - 1 of them."""
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
    begins,  # (N,) int32: the rows that may be neighbours of a row are begins to ends - 1
    ends,
    scores,  # (L, N, K): ascending, infinite where nobody is left
    indices,  # (L, N, K) int32: the smaller wins a tie; -1 where nobody is left
    extents,  # (L, BLOCKS, N): largest score within a block among the neighbours
    count,
    dim,
    K: tl.constexpr,
    SLOTS: tl.constexpr,  # a power of two, at least K
    BLOCKS: tl.constexpr,
    EUCLIDEAN: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """A program for a tile of rows; the grid is (tiles, L)."""
    layer = tl.program_id(1).to(tl.int64)
    points += layer * dim * count
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = row < count
    begin = tl.load(begins + row, mask=live, other=_NOBODY)
    end = tl.load(ends + row, mask=live, other=0)
    lane = tl.arange(0, COLS)
    slot = tl.arange(0, SLOTS)[None, :]
    # slots past K hold what is never the largest, the others somebody who is never the smallest
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
            # the last of the k leaves: of equal scores the one with the largest number
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
        # an empty slot makes the extent infinite, as it does the radius
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
    limits,  # (L, BLOCKS + 1, N): scores below count; for each block, and for their maximum
    counts,  # (L, BLOCKS + 1, N) int32
    count,
    dim,
    BLOCKS: tl.constexpr,
    PARTS: tl.constexpr,  # a power of two, at least BLOCKS + 1
    EUCLIDEAN: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """A program for a tile of rows; the grid is (tiles, L)."""
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
