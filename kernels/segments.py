"""First launch: computes the moments of every segment: sorted rows of one class.

Rows are read once, in the order of the permutation. A segment's sums are taken relative to a shift,
which approximates the mean of the segment's first tile. The shift is computed as the segment's
first row plus the mean difference of the tile's rows from it. Starting from the first row makes the
shift exact for identical rows. Adding the mean difference limits the loss of accuracy if the first
row is an outlier: with L rows in the segment and R in the tile, ``S2 - S1^2 / n`` loses a factor of
at most about 1 + L / R^2. All rows are scaled by a power of two that brings the segment's first row
near 1, so that squares neither overflow nor underflow. The first row may be far below the others,
or zero: a second launch computes the segments whose squares did overflow or may have vanished
again, at the scale of their largest entry. It leaves the other segments at once.

Oracle: `segments` in tests/twins.py.
"""

import inspect

import triton
import triton.language as tl

_CAN_RECOMPUTE = tl.constexpr("disable_licm" in inspect.signature(tl.range).parameters)


@triton.jit
def power_of_two_below(value):
    """1 / 2^floor(log2(value)) from the exponent bits; 1 for zero, infinity and NaN."""
    bits = value.to(tl.float32).to(tl.int32, bitcast=True) & 0x7F800000
    scale = (0x7F000000 - tl.minimum(bits, 0x7E800000)).to(tl.float32, bitcast=True)
    return tl.where((value > 0) & (bits < 0x7F800000), scale, 1.0)


@triton.jit
def add_tile(x, live, shift, sum1, sum2, norm_sum, norm_max, MASKED: tl.constexpr):
    """Adds a tile of scaled rows to the sums of each column and to the sum and maximum of norms."""
    squared = tl.sum(x * x, 1)
    norm = tl.sqrt(squared)
    away = x - shift[None, :]
    if MASKED:
        away = tl.where(live[:, None], away, 0.0)
    sum1 += tl.sum(away, 0)
    sum2 += tl.sum(away * away, 0)
    return sum1, sum2, norm_sum + norm, tl.maximum(norm_max, norm), squared


@triton.jit
def add_squares(place, squared, unscale, known, live):
    """Undoes the scale of the rows' squares and adds them to the squares of earlier columns."""
    before = tl.load(place, mask=live & known, other=0.0)
    tl.store(place, before + squared.to(tl.float64) * unscale * unscale, mask=live)


@triton.jit
def load_tile(feats, rows, cols, row_stride, col_stride, mask, ACC: tl.constexpr):
    """Loads the rows with the given numbers and converts them to the accumulation type."""
    offsets = rows.to(tl.int64)[:, None] * row_stride + cols.to(tl.int64)[None, :] * col_stride
    # convert first: the interpreter computes wrongly in bfloat16
    return tl.load(feats + offsets, mask=mask, other=0.0).to(ACC)


@triton.jit
def largest_entry(
    feats,
    permutation,
    length,
    cols,
    inside,
    row_stride,
    col_stride,
    ROWS: tl.constexpr,
    ACC: tl.constexpr,
):
    """The largest absolute value in the first ``length`` rows, over one block of columns."""
    largest = tl.zeros_like(cols).to(ACC)
    for begin in tl.range(0, length, ROWS):
        row = begin + tl.arange(0, ROWS)
        rows = tl.load(permutation + row, mask=row < length, other=0)
        mask = (row < length)[:, None] & inside[None, :]
        x = load_tile(feats, rows, cols, row_stride, col_stride, mask, ACC)
        largest = tl.maximum(largest, tl.max(tl.abs(x), 0))
    return tl.max(largest, 0)


@triton.jit
def misled(length, norm_max, ss):
    """Whether squares overflowed, or may have vanished, at the scale of the first row."""
    # below 2^-20 the squares of residuals may have vanished; comparisons with NaN are false
    fits = (norm_max > 9.5367431640625e-07) & (norm_max < float("inf")) & (ss < float("inf"))
    return (length > 0) & ~fits


@triton.jit
def moments_of_run(
    feats,
    permutation,
    length,
    cols,
    inside,
    row_stride,
    col_stride,
    row_squares,
    known,
    ROWS: tl.constexpr,
    again,  # take the scale from all rows, not from the first
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Moments of the first ``length`` rows of ``permutation``, over one block of columns.

    The mean is ``(shift + rest) * unscale``. Further results are the sum of squares around the mean
    and the sum and maximum of the norms. With WIDE, the square of every row is stored in
    ``row_squares``; if ``known``, it is added to the value already there.
    """
    row = tl.arange(0, ROWS)
    live = row < length
    rows = tl.load(permutation + row, mask=live, other=0)
    ahead = tl.load(permutation + ROWS + row, mask=ROWS + row < length, other=0)

    # the first tile gives the scale and the shift; a segment without rows gives zeros
    mask = live[:, None] & inside[None, :]
    x = load_tile(feats, rows, cols, row_stride, col_stride, mask, ACC)
    first = tl.sum(tl.where((row == 0)[:, None], x, 0.0), 0)
    if again:
        peak = largest_entry(
            feats, permutation, length, cols, inside, row_stride, col_stride, ROWS, ACC
        )
    else:
        peak = tl.max(tl.abs(first), 0)
    scale = power_of_two_below(peak).to(ACC)
    unscale = 1.0 / scale.to(tl.float64)
    x *= scale
    first *= scale
    held = tl.maximum(tl.minimum(length, ROWS), 1).to(ACC)
    shift = first + tl.sum(tl.where(live[:, None], x - first[None, :], 0.0), 0) / held

    zero = tl.zeros_like(first)
    none = tl.zeros([ROWS], ACC)
    sum1, sum2, norm_sum, norm_max, squared = add_tile(
        x, live, shift, zero, zero, none, none, MASKED=True
    )
    if WIDE:
        add_squares(row_squares + row, squared, unscale, known, live)
    full = length // ROWS * ROWS
    for begin in tl.range(ROWS, full, ROWS):
        rows = ahead
        later = begin + ROWS + row
        ahead = tl.load(permutation + later, mask=later < length, other=0)
        x = load_tile(feats, rows, cols, row_stride, col_stride, inside[None, :], ACC) * scale
        sum1, sum2, norm_sum, norm_max, squared = add_tile(
            x, live, shift, sum1, sum2, norm_sum, norm_max, MASKED=False
        )
        if WIDE:
            add_squares(row_squares + begin + row, squared, unscale, known, row >= 0)
    if (full > 0) & (full < length):
        live = full + row < length
        mask = live[:, None] & inside[None, :]
        x = load_tile(feats, ahead, cols, row_stride, col_stride, mask, ACC) * scale
        sum1, sum2, norm_sum, norm_max, squared = add_tile(
            x, live, shift, sum1, sum2, norm_sum, norm_max, MASKED=True
        )
        if WIDE:
            add_squares(row_squares + full + row, squared, unscale, known, live)

    rest = sum1 / tl.maximum(length, 1).to(ACC)
    spread = sum2 - sum1 * rest
    spread = tl.where(spread < 0, 0.0, spread)  # not max(., 0), which would drop a NaN
    ss = tl.sum(tl.where(inside, spread, 0.0), 0).to(tl.float64) * unscale * unscale
    total = tl.sum(norm_sum, 0).to(tl.float64) * unscale
    largest = tl.max(norm_max, 0).to(tl.float64) * unscale
    largest = tl.where(total != total, total, largest)  # max drops NaN
    return shift, rest, unscale, ss, total, largest


@triton.jit
def norms_of_squares(squares, length, SIZE: tl.constexpr):
    """Sum and maximum of the norms of rows, from their squares in memory."""
    total = tl.zeros([SIZE], tl.float64)
    largest = tl.zeros([SIZE], tl.float64)
    for begin in tl.range(0, length, SIZE):
        row = begin + tl.arange(0, SIZE)
        norm = tl.sqrt(tl.load(squares + row, mask=row < length, other=0.0))
        total += norm
        largest = tl.maximum(largest, norm)
    whole = tl.sum(total, 0)
    return whole, tl.where(whole != whole, whole, tl.max(largest, 0))


@triton.jit
def moments_of_block(
    feats,
    permutation,
    segments,
    partial_mean,
    means,
    row_squares,
    segment,
    number,
    mend,
    turn,
    dim,
    row_stride,
    col_stride,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
    ACC: tl.constexpr,
    AGAIN: tl.constexpr,
):
    """Stores the mean of a segment in one block of columns; the sum of squares, and the norms."""
    # loaded for every block: what is computed from them is not held in registers between blocks
    start = tl.load(segments + segment)
    length = tl.load(segments + number + segment)
    owner = tl.load(segments + 2 * number + segment).to(tl.int64)
    cols = turn * COLS + tl.arange(0, COLS)
    inside = cols < dim
    shift, rest, unscale, ss, total, largest = moments_of_run(
        feats, permutation + start, length, cols, inside, row_stride, col_stride,
        row_squares + start, turn > 0, ROWS, AGAIN, ACC, WIDE,
    )  # fmt: skip
    slot = tl.load(segments + 4 * number + segment).to(tl.int64)
    if (owner >= 0) & ((slot < 0) | (length > 0)):
        mean = (shift.to(tl.float64) + rest.to(tl.float64)) * unscale
        if slot < 0:
            tl.store(means + owner * dim + cols, mean + mend, mask=inside)
        else:
            pivot = tl.load(segments + 3 * number + segment).to(tl.int64)
            origin = feats + pivot * row_stride + cols.to(tl.int64) * col_stride
            # in float64: at the scale of this segment the first row of the class might overflow
            base = tl.load(origin, mask=inside, other=0.0).to(tl.float64)
            tl.store(partial_mean + slot * dim + cols, (mean - base).to(ACC), mask=inside)
    if WIDE:
        tl.debug_barrier()  # threads read squares that other threads wrote
    return ss, total, largest


@triton.jit(do_not_specialize=["width", "row_units", "number"])
def moments_of_segments(
    feats,
    permutation,
    segments,
    poison,
    partial_mean,  # (slots, D), relative to the class's first row
    totals,  # (3, number) float64: sum of squares, sum and maximum of the norms
    means,
    within,
    arrivals,  # (number,) int32: set to 0 for the merge
    row_squares,  # (N,) float64 scratch, with WIDE only
    width,
    row_units,
    col_stride,
    number,
    ALIGN: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,  # a row is wider than COLS; the program loops over blocks of columns
    ACC: tl.constexpr,
    AGAIN: tl.constexpr,  # the second launch
):
    """One program per segment; the grid is (number,)."""
    segment = tl.program_id(0)
    start = tl.load(segments + segment)
    length = tl.load(segments + number + segment)
    if AGAIN:
        wanted = misled(length, tl.load(totals + 2 * number + segment), tl.load(totals + segment))
        if not wanted:
            return
    else:
        tl.store(arrivals + segment, 0)
    mend = tl.load(poison)
    dim = width * ALIGN
    row_stride = row_units.to(tl.int64) * ALIGN
    inner = tl.zeros((), tl.float64)
    total = tl.zeros((), tl.float64)
    largest = tl.zeros((), tl.float64)
    turns = tl.cdiv(dim, COLS) if WIDE else 1
    if _CAN_RECOMPUTE:
        # hoisting loop invariants would cost 70 registers, so they are recomputed
        for turn in tl.range(0, turns, disable_licm=True):
            ss, total, largest = moments_of_block(
                feats, permutation, segments, partial_mean, means, row_squares, segment, number,
                mend, turn, dim, row_stride, col_stride, ROWS, COLS, WIDE, ACC, AGAIN,
            )  # fmt: skip
            inner += ss
    else:
        for turn in tl.range(0, turns):
            ss, total, largest = moments_of_block(
                feats, permutation, segments, partial_mean, means, row_squares, segment, number,
                mend, turn, dim, row_stride, col_stride, ROWS, COLS, WIDE, ACC, AGAIN,
            )  # fmt: skip
            inner += ss
    if WIDE:
        total, largest = norms_of_squares(row_squares + start, length, 256)
    tl.store(totals + segment, inner)
    tl.store(totals + number + segment, total)
    tl.store(totals + 2 * number + segment, largest)
    owner = tl.load(segments + 2 * number + segment).to(tl.int64)
    if (owner >= 0) & (tl.load(segments + 4 * number + segment) < 0):
        tl.store(within + owner, inner + mend)
