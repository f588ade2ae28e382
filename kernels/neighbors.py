"""Kernels for nearest neighbors and range counts by direct differences, without an N x N matrix.

The score of two rows in a block of columns is their squared Euclidean distance or their largest
absolute difference. The score of two rows is the largest of their scores in the blocks. Columns are
added in order and no product is fused into a sum, so float64 scores equal those of a simple float64
loop bit for bit. Rows are sorted by class. The candidate neighbors of a row lie in one range of
rows; a row is not its own neighbor.

Oracles: `ncfast.kernels.twins.nearest`, `ncfast.kernels.twins.count_nearer`.
"""

import triton
import triton.language as tl

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
