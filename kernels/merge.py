"""Last launch: merges the moments of each class's segments and the norms of all segments.

Sums are in float64 and in the order of the segments, so every run gives the same bits. They are
relative to the mean of the class's first segment, so ``Q - |S|^2 / n`` loses at most a factor of
n + 1 of float64's accuracy (Chan, Golub & LeVeque 1983).

A program merges a block of columns of a class. The last program of a class to finish adds the
blocks' sums of squares, so that no further launch is needed. It adds them in the order of the
columns, whichever program is the last.

Oracle: `merge` in tests/twins.py.
"""

import triton
import triton.language as tl


@triton.jit
def add_norms(norms, number, SIZE: tl.constexpr):
    """The sum and the maximum of the norms of all rows, from those of each segment (2, number)."""
    lane = tl.arange(0, SIZE)
    total = tl.zeros([SIZE], tl.float64)
    largest = tl.zeros([SIZE], tl.float64)
    for begin in tl.range(0, number, SIZE):
        segment = begin + lane
        total += tl.load(norms + segment, mask=segment < number, other=0.0)
        value = tl.load(norms + number + segment, mask=segment < number, other=0.0)
        largest = tl.where(value > largest, value, largest)
    norm_sum = tl.sum(total, 0)
    # comparisons drop NaN, the sum keeps it; norms are not negative, so inf - inf cannot occur
    return norm_sum, tl.where(norm_sum != norm_sum, norm_sum, tl.max(largest, 0))


@triton.jit
def add_in_order(values, first, stop, SIZE: tl.constexpr):
    """The sum of a range of float64 values, always added in the same order."""
    lane = tl.arange(0, SIZE)
    total = tl.zeros([SIZE], tl.float64)
    for begin in tl.range(first, stop, SIZE):
        total += tl.load(values + begin + lane, mask=begin + lane < stop, other=0.0)
    return tl.sum(total, 0)


@triton.jit
def class_sums(
    lengths,  # of the segments
    partial_mean,  # of the class's first segment; those of the others follow
    first,
    stop,
    rows,
    cols,
    dim,
    SEGMENTS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Mean of a class, and squares of its segments' means around it, by column."""
    inside = cols < dim
    lane = tl.arange(0, SEGMENTS)
    origin = tl.load(partial_mean + cols, mask=inside, other=0.0)
    weighted = tl.zeros([SEGMENTS, COLS], tl.float64)
    between = tl.zeros([SEGMENTS, COLS], tl.float64)
    for begin in tl.range(first, stop, SEGMENTS, num_stages=3):
        segment = begin + lane
        live = segment < stop
        length = tl.load(lengths + segment, mask=live, other=0).to(tl.float64)
        source = partial_mean + (segment - first).to(tl.int64)[:, None] * dim + cols[None, :]
        held = live[:, None] & inside[None, :]
        mean = tl.load(source, mask=held, other=0.0) - origin[None, :]
        moment = length[:, None] * mean
        weighted += moment
        between += moment * mean
    total = tl.sum(weighted, 0)
    mean = total / rows
    rest = tl.sum(between, 0) - total * mean
    rest = tl.where(rest < 0, 0.0, rest)  # not max(., 0), which would drop a NaN
    return origin + mean, rest


@triton.jit(do_not_specialize=["width", "number", "classes"])
def merge_segments(
    segments,
    shared,
    counts,
    poison,
    partial_mean,
    totals,  # (3, number), see `moments_of_segments`
    arrivals,  # (number,) int32, 0 before the launch: programs of the class that have finished
    spreads,  # (classes, blocks) float64 scratch: sum of squares of a block of columns
    means,
    within,
    norms,  # (2,) float64: sum and maximum
    width,
    number,
    classes,
    ALIGN: tl.constexpr,
    SEGMENTS: tl.constexpr,
    COLS: tl.constexpr,
    SIZE: tl.constexpr,
):
    """One program per class of several segments, and one for the norms, by blocks of columns.

    The grid is (classes + 1, blocks).
    """
    rank = tl.program_id(0)
    block = tl.program_id(1)
    blocks = tl.num_programs(1)
    mend = tl.load(poison)
    if rank == classes:
        if block == 0:
            norm_sum, norm_max = add_norms(totals + number, number, SIZE)
            tl.store(norms, norm_sum + mend)
            tl.store(norms + 1, norm_max + mend)
    else:
        owner = tl.load(shared + rank).to(tl.int64)
        if owner >= 0:
            dim = width * ALIGN
            first = tl.load(shared + classes + rank)
            stop = first + tl.load(shared + 2 * classes + rank)
            slot = tl.load(shared + 3 * classes + rank).to(tl.int64)
            rows = tl.load(counts + owner).to(tl.float64)
            cols = block * COLS + tl.arange(0, COLS)
            mean, rest = class_sums(
                segments + number, partial_mean + slot * dim, first, stop, rows, cols, dim,
                SEGMENTS, COLS,
            )  # fmt: skip
            tl.store(means + owner * dim + cols, mean + mend, mask=cols < dim)
            own = spreads + rank.to(tl.int64) * blocks
            tl.store(own + block, tl.sum(rest, 0))
            tl.debug_barrier()  # this program's sum is stored before it is counted
            arrived = tl.atomic_add(arrivals + first, 1, sem="acq_rel", scope="gpu")
            if arrived == blocks - 1:
                spread = add_in_order(own, 0, blocks, SEGMENTS)
                inner = add_in_order(totals, first, stop, SEGMENTS)
                tl.store(within + owner, spread + inner + mend)
