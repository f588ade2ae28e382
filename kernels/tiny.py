"""Kernel for the moments of a few thousand rows in one launch, without sorting or a `LabelPlan`.

Each program handles one class. It reads all labels, lists the rows of its class, and computes their
moments as `ncfast.kernels.segments` does: by tiles, at a scale. It repeats this at the scale of the
largest entry if squares overflowed or vanished at the scale of the first row. All tiles take one
loop with a mask: code that a multiprocessor fetches for the first time costs more than the mask.
The last program to finish adds the norms in the order of the classes. A counter tells which program
is the last. Each call allocates its counter and sets it to 0, so launches share nothing.

Oracle: `ncfast.ops.moments.reference`.
"""

import triton
import triton.language as tl

from ncfast.kernels.segments import (
    add_tile,
    largest_entry,
    load_tile,
    misled,
    move_shift,
    power_of_two_below,
)


@triton.jit
def moments_of_list(
    feats,
    own,  # the rows of the class
    length,
    cols,
    inside,
    row_stride,
    col_stride,
    again,  # take the scale from all rows, not from the first
    ROWS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Mean of the listed rows, sum of squares around it, and sum and maximum of the norms."""
    lane = tl.arange(0, ROWS)
    origin = tl.sum(tl.load(own + lane, mask=lane < tl.minimum(length, 1), other=0), 0)
    place = feats + origin.to(tl.int64) * row_stride + cols.to(tl.int64) * col_stride
    some = tl.zeros_like(cols) < length  # the interpreter wants masks that are no scalars
    first = tl.load(place, mask=inside & some, other=0.0).to(ACC)
    if again:
        peak = largest_entry(feats, own, length, cols, inside, row_stride, col_stride, ROWS, ACC)
    else:
        peak = tl.max(tl.abs(first), 0)
    scale = power_of_two_below(peak).to(ACC)
    unscale = 1.0 / scale.to(tl.float64)
    shift = first * scale
    mean = tl.zeros_like(first)
    squares = tl.zeros((), tl.float64)
    norm_sum = tl.zeros((), tl.float64)
    norm_max = tl.zeros((), ACC)
    for begin in tl.range(0, length, ROWS):
        live = begin + lane < length
        rows = tl.load(own + begin + lane, mask=live, other=0)
        mask = live[:, None] & inside[None, :]
        x = load_tile(feats, rows, cols, row_stride, col_stride, mask, ACC) * scale
        held = tl.zeros((), ACC) + tl.minimum(length - begin, ROWS)
        before = tl.zeros((), ACC) + begin
        mean, squares, norm_sum, norm_max, _ = add_tile(
            x, live, held, before, shift, mean, squares, norm_sum, norm_max, MASKED=True
        )
        if begin == 0:
            shift, mean = move_shift(shift, mean)
    ss = squares * unscale * unscale
    total = norm_sum * unscale
    largest = norm_max.to(tl.float64) * unscale
    largest = tl.where(total != total, total, largest)  # max drops NaN
    return (shift.to(tl.float64) + mean.to(tl.float64)) * unscale, ss, total, largest


@triton.jit(do_not_specialize=["count", "width", "row_units"])
def moments_of_classes(
    feats,
    labels,
    results,  # float64: counts (K,) as bits of int64, means (K, D), within (K,), norms (2,)
    scratch,  # int32, see `scratch_size`; the first is the counter, 0 before the launch
    count,
    width,
    row_units,
    col_stride,
    ALIGN: tl.constexpr,
    LABELS: tl.constexpr,  # labels read at once, a power of two
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    CLASSES: tl.constexpr,  # a power of two, at least K
    ACC: tl.constexpr,
):
    """One program per class; the grid is (K,)."""
    owner = tl.program_id(0)
    classes = tl.num_programs(0)
    dim = width * ALIGN
    means = results + classes
    within = means + classes.to(tl.int64) * dim
    norms = within + classes
    parts = (scratch + 2).to(tl.pointer_type(tl.float64), bitcast=True)  # sums, then maxima
    listed = scratch + 2 + 4 * classes

    bad = 0
    before = 0  # rows of earlier classes
    for begin in tl.range(0, count, LABELS):
        row = begin + tl.arange(0, LABELS)
        label = tl.load(labels + row, mask=row < count, other=0).to(tl.int64)
        valid = (label >= 0) & (label < classes)
        bad += tl.sum((~valid).to(tl.int32), 0)
        label = tl.where(valid, label, 0)
        before += tl.sum(((label < owner) & (row < count)).to(tl.int32), 0)
    mend = tl.where(bad > 0, float("nan"), 0.0).to(tl.float64)
    own = listed + before  # the lists of the classes follow each other
    length = 0
    for begin in tl.range(0, count, LABELS):
        row = begin + tl.arange(0, LABELS)
        label = tl.load(labels + row, mask=row < count, other=-1).to(tl.int64)
        label = tl.where((label >= 0) & (label < classes), label, 0)
        mine = ((label == owner) & (row < count)).to(tl.int32)
        tl.store(own + length + tl.cumsum(mine, 0) - 1, row, mask=mine > 0)
        length += tl.sum(mine, 0)
    tl.debug_barrier()  # threads read entries of the list that other threads wrote

    cols = tl.arange(0, COLS)
    inside = cols < dim
    turn = 0
    while turn < 2:
        mean, ss, total, largest = moments_of_list(
            feats, own, length, cols, inside, row_units.to(tl.int64) * ALIGN, col_stride, turn > 0,
            ROWS, ACC,
        )  # fmt: skip
        tl.store(means + owner.to(tl.int64) * dim + cols, mean + mend, mask=inside)
        tl.store(within + owner, ss + mend)
        tl.store(parts + owner, total)
        tl.store(parts + classes + owner, largest)
        turn = tl.where(misled(length, largest, ss), turn + 1, 2)
    tl.store(results + owner, length.to(tl.int64).to(tl.float64, bitcast=True))

    tl.debug_barrier()  # this program's stores are complete before it is counted
    arrived = tl.atomic_add(scratch, 1, sem="acq_rel", scope="gpu")
    if arrived == classes - 1:
        rank = tl.arange(0, CLASSES)
        sums = tl.load(parts + rank, mask=rank < classes, other=0.0)
        maxs = tl.load(parts + classes + rank, mask=rank < classes, other=0.0)
        norm_sum = tl.sum(sums, 0)
        norm_max = tl.where(norm_sum != norm_sum, norm_sum, tl.max(maxs, 0))
        tl.store(norms, norm_sum + mend)
        tl.store(norms + 1, norm_max + mend)


def scratch_size(rows: int, num_classes: int) -> int:
    """Entries of the scratch: the counter and a gap, two norms of each class, the lists of rows."""
    return 2 + 4 * num_classes + rows
