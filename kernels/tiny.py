"""Kernel for the moments of a few thousand rows in one launch, without sorting or a `LabelPlan`.

Each program handles one class. It reads all labels, lists the rows of its class, and computes their
moments with the code of the segments kernel. It repeats this at the scale of the largest entry if
squares overflowed or vanished at the scale of the first row. The last program to finish adds the
norms in the order of the classes. A counter tells which program is the last. Each call allocates
its counter and sets it to 0, so launches share nothing.

Oracle: `ncfast.ops.moments.reference`.
"""

import triton
import triton.language as tl

from ncfast.kernels.segments import misled, moments_of_run


@triton.jit(do_not_specialize=["count", "width", "row_units"])
def moments_of_classes(
    feats,
    labels,
    listed,  # (K, count) int32 scratch: the rows of each class
    norm_parts,  # (2, K) float64 scratch
    counter,  # () int32, 0 before the launch
    counts,
    means,
    within,
    norms,  # (2,) float64: sum and maximum
    count,
    width,
    row_units,
    col_stride,
    ALIGN: tl.constexpr,
    LABELS: tl.constexpr,  # a power of two, at least count
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    CLASSES: tl.constexpr,  # a power of two, at least K
    ACC: tl.constexpr,
):
    """One program per class; the grid is (K,)."""
    owner = tl.program_id(0)
    classes = tl.num_programs(0)
    lane = tl.arange(0, LABELS)
    label = tl.load(labels + lane, mask=lane < count, other=0).to(tl.int64)
    valid = (label >= 0) & (label < classes)
    bad = tl.sum((~valid).to(tl.int32), 0) > 0
    mend = tl.where(bad, float("nan"), 0.0).to(tl.float64)
    mine = (tl.where(valid, label, 0) == owner) & (lane < count)
    place = tl.cumsum(mine.to(tl.int32), 0)
    length = tl.sum(mine.to(tl.int32), 0)
    own = listed + owner.to(tl.int64) * count
    tl.store(own + place - 1, lane, mask=mine)
    tl.debug_barrier()  # threads read entries of the list that other threads wrote

    cols = tl.arange(0, COLS)
    inside = cols < width * ALIGN
    turn = 0
    while turn < 2:
        shift, rest, unscale, ss, total, largest = moments_of_run(
            feats, own, length, cols, inside, row_units.to(tl.int64) * ALIGN, col_stride,
            norms, False, ROWS, turn > 0, ACC, False,
        )  # fmt: skip
        mean = (shift.to(tl.float64) + rest.to(tl.float64)) * unscale
        tl.store(means + owner.to(tl.int64) * width * ALIGN + cols, mean + mend, mask=inside)
        tl.store(within + owner, ss + mend)
        tl.store(norm_parts + owner, total)
        tl.store(norm_parts + classes + owner, largest)
        turn = tl.where(misled(length, largest, ss), turn + 1, 2)
    tl.store(counts + owner, length.to(tl.int64))

    tl.debug_barrier()  # this program's stores are complete before it is counted
    arrived = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
    if arrived == classes - 1:
        rank = tl.arange(0, CLASSES)
        sums = tl.load(norm_parts + rank, mask=rank < classes, other=0.0)
        maxs = tl.load(norm_parts + classes + rank, mask=rank < classes, other=0.0)
        norm_sum = tl.sum(sums, 0)
        norm_max = tl.where(norm_sum != norm_sum, norm_sum, tl.max(maxs, 0))
        tl.store(norms, norm_sum + mend)
        tl.store(norms + 1, norm_max + mend)
