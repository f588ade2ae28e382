"""Second and third launch: the items of each class, then what is summed over blocks and items.

All in float64 and in the order of the items, so that every run gives the same bits. The items'
means are relative to the class's first row, which belongs to the class: ``Q - |S|^2 / n`` loses a
factor of n + 1 of float64's accuracy at most.

Twin in plain torch: `ncfast.kernels.twins.merge`.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["width", "row_stride", "number", "classes"])
def merge_items(
    feats,
    items,
    shared,
    counts,
    poison,
    partial_mean,
    partial_ss,
    means,
    block_ss,  # (classes, blocks) float64
    width,
    row_stride,
    col_stride,
    number,
    classes,
    ALIGN: tl.constexpr,
    GROUPS: tl.constexpr,
    ITEMS: tl.constexpr,
    COLS: tl.constexpr,
):
    """A program for a class of several items and a block of columns: (classes, blocks)."""
    rank = tl.program_id(0)
    block = tl.program_id(1)
    owner = tl.load(shared + rank).to(tl.int64)
    dim = width * ALIGN
    if owner >= 0:
        first = tl.load(shared + classes + rank)
        stop = first + tl.load(shared + 2 * classes + rank)
        slot = tl.load(shared + 3 * classes + rank)
        cols = block * COLS + tl.arange(0, COLS)
        inside = cols < dim
        weighted = tl.zeros([COLS], tl.float64)
        between = tl.zeros([COLS], tl.float64)
        inner = tl.zeros([ITEMS], tl.float64)
        for begin in tl.range(first, stop, ITEMS):
            item = begin + tl.arange(0, ITEMS)
            live = item < stop
            length = tl.load(items + number + item, mask=live, other=0).to(tl.float64)
            place = (slot + item - first).to(tl.int64) * dim
            source = partial_mean + place[:, None] + cols[None, :]
            mask = live[:, None] & inside[None, :]
            mean = tl.load(source, mask=mask, other=0.0).to(tl.float64)
            moment = length[:, None] * mean
            weighted += tl.sum(moment, 0)
            between += tl.sum(moment * mean, 0)
            if block == 0:
                for group in tl.static_range(GROUPS):
                    inner += tl.load(partial_ss + group * number + item, mask=live, other=0.0)
        mean = weighted / tl.load(counts + owner).to(tl.float64)
        spread = between - weighted * mean
        spread = tl.where(spread < 0, 0.0, spread)
        tl.store(block_ss + rank * tl.num_programs(1) + block, tl.sum(spread, 0) + tl.sum(inner, 0))
        pivot = tl.load(items + 3 * number + first).to(tl.int64)
        origin = feats + pivot * row_stride + cols.to(tl.int64) * col_stride
        base = tl.load(origin, mask=inside, other=0.0).to(tl.float64)
        tl.store(means + owner * dim + cols, base + mean + tl.load(poison), mask=inside)


@triton.jit(do_not_specialize=["number", "classes", "blocks"])
def finish(
    shared,
    poison,
    block_ss,
    within,
    norm_sums,
    norm_maxs,
    norms,  # (2,) float64: sum and maximum
    number,
    classes,
    blocks,
    SIZE: tl.constexpr,
):
    """Programs 0 to classes - 1: a class's sum of squares. The last program: the norms."""
    rank = tl.program_id(0)
    lane = tl.arange(0, SIZE)
    total = tl.zeros([SIZE], tl.float64)
    mend = tl.load(poison)
    if rank < classes:
        owner = tl.load(shared + rank)
        if owner >= 0:
            for begin in tl.range(0, blocks, SIZE):
                block = begin + lane
                total += tl.load(block_ss + rank * blocks + block, mask=block < blocks, other=0.0)
            tl.store(within + owner, tl.sum(total, 0) + mend)
    else:
        largest = tl.zeros([SIZE], tl.float64)
        for begin in tl.range(0, number, SIZE):
            item = begin + lane
            total += tl.load(norm_sums + item, mask=item < number, other=0.0)
            value = tl.load(norm_maxs + item, mask=item < number, other=0.0)
            largest = tl.where(value > largest, value, largest)
        norm_sum = tl.sum(total, 0)
        tl.store(norms, norm_sum + mend)
        # a NaN loses every comparison, but not the sum; infinities of both signs cannot meet there
        norm_max = tl.where(norm_sum != norm_sum, norm_sum, tl.max(largest, 0))
        tl.store(norms + 1, norm_max + mend)
