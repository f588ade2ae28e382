"""Last launch: merges the moments of each class's segments and the norms of all segments.

Sums are in float64 and in the order of the segments, so every run gives the same bits. The
segments' means are relative to the first row of their class, so ``Q - |S|^2 / n`` loses at most a
factor of n + 1 of float64's accuracy.

One program merges a class and loops over all its columns, so the sum of squares over columns needs
no further launch. `segments_config` chooses segments long enough to keep this loop short.

Oracle: `merge` in tests/twins.py.
"""

import triton
import triton.language as tl


@triton.jit
def add_norms(norm_sums, norm_maxs, number, SIZE: tl.constexpr):
    """The sum and the maximum of the norms of all rows."""
    lane = tl.arange(0, SIZE)
    total = tl.zeros([SIZE], tl.float64)
    largest = tl.zeros([SIZE], tl.float64)
    for begin in tl.range(0, number, SIZE):
        segment = begin + lane
        total += tl.load(norm_sums + segment, mask=segment < number, other=0.0)
        value = tl.load(norm_maxs + segment, mask=segment < number, other=0.0)
        largest = tl.where(value > largest, value, largest)
    norm_sum = tl.sum(total, 0)
    # comparisons drop NaN, the sum keeps it; norms are not negative, so inf - inf cannot occur
    return norm_sum, tl.where(norm_sum != norm_sum, norm_sum, tl.max(largest, 0))


@triton.jit(do_not_specialize=["width", "row_stride", "number", "classes"])
def merge_segments(
    feats,
    segments,
    shared,
    counts,
    poison,
    partial_mean,
    partial_ss,
    norm_sums,
    norm_maxs,
    means,
    within,
    norms,  # (2,) float64: sum and maximum
    width,
    row_stride,
    col_stride,
    number,
    classes,
    ALIGN: tl.constexpr,
    SEGMENTS: tl.constexpr,
    COLS: tl.constexpr,
    SIZE: tl.constexpr,
):
    """Programs 0 to classes - 1 each merge a class of several segments; the last adds the norms."""
    rank = tl.program_id(0)
    mend = tl.load(poison)
    if rank == classes:
        norm_sum, norm_max = add_norms(norm_sums, norm_maxs, number, SIZE)
        tl.store(norms, norm_sum + mend)
        tl.store(norms + 1, norm_max + mend)
    else:
        owner = tl.load(shared + rank).to(tl.int64)
        if owner >= 0:
            dim = width * ALIGN
            first = tl.load(shared + classes + rank)
            stop = first + tl.load(shared + 2 * classes + rank)
            slot = tl.load(shared + 3 * classes + rank)
            count = tl.load(counts + owner).to(tl.float64)
            pivot = tl.load(segments + 3 * number + first).to(tl.int64)
            lane = tl.arange(0, SEGMENTS)
            inner = tl.zeros([SEGMENTS], tl.float64)
            for begin in tl.range(first, stop, SEGMENTS):
                segment = begin + lane
                inner += tl.load(partial_ss + segment, mask=segment < stop, other=0.0)
            spread = tl.zeros([COLS], tl.float64)
            for start in tl.range(0, dim, COLS):
                cols = start + tl.arange(0, COLS)
                inside = cols < dim
                weighted = tl.zeros([SEGMENTS, COLS], tl.float64)
                between = tl.zeros([SEGMENTS, COLS], tl.float64)
                for begin in tl.range(first, stop, SEGMENTS, num_stages=3):
                    segment = begin + lane
                    live = segment < stop
                    length = tl.load(segments + number + segment, mask=live, other=0).to(tl.float64)
                    place = (slot + segment - first).to(tl.int64) * dim
                    source = partial_mean + place[:, None] + cols[None, :]
                    mask = live[:, None] & inside[None, :]
                    mean = tl.load(source, mask=mask, other=0.0).to(tl.float64)
                    moment = length[:, None] * mean
                    weighted += moment
                    between += moment * mean
                total = tl.sum(weighted, 0)
                mean = total / count
                rest = tl.sum(between, 0) - total * mean
                spread += tl.where(rest < 0, 0.0, rest)  # not max(., 0), which would drop a NaN
                origin = feats + pivot * row_stride + cols.to(tl.int64) * col_stride
                base = tl.load(origin, mask=inside, other=0.0).to(tl.float64)
                tl.store(means + owner * dim + cols, base + mean + mend, mask=inside)
            tl.store(within + owner, tl.sum(spread, 0) + tl.sum(inner, 0) + mend)
