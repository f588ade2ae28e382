"""First launch: computes the moments of every segment: sorted rows of one class.

Rows are read once, in the order of the permutation, in tiles of a few rows. The squares of a tile
are summed around its own mean, while its rows are in registers. Tiles are then merged (Chan, Golub
& LeVeque 1983): all terms are positive and nothing cancels, wherever an outlier lies. Means are
relative to a shift, the rounded mean of the first tile, so that their rounding is that of the
spread of the rows. It is the first row plus the mean difference from it, which is exactly 0 for
identical rows. All rows are scaled by a power of two that brings the segment's first row near 1, so
that squares neither overflow nor underflow. The first row may be far below the others, or zero: a
second launch computes the segments whose squares did overflow or may have vanished again, at the
scale of their largest entry. It leaves the other segments at once.

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
def quotient(a, b):
    """Divides to the nearest value. A compiled division in float32 is off by up to two units."""
    if a.dtype == tl.float32:
        inverse = 1.0 / b
        result = a * inverse
        result += tl.fma(-result, b, a) * inverse
    else:
        result = a / b
    return result


@triton.jit
def add_tile(
    x,
    live,
    held,  # number of rows in the tile
    before,  # number of rows in the tiles before it
    shift,
    mean,  # of the rows before, relative to the shift
    squares,  # of the rows before, around their mean, () float64
    norm_sum,  # of the rows before, () float64
    norm_max,
    MASKED: tl.constexpr,
):
    """Merges a tile of scaled rows with those before it; of norms, the sum and the maximum."""
    squared = tl.sum(x * x, 1)
    norm = tl.sqrt(squared)
    away = x - shift[None, :]
    if MASKED:
        away = tl.where(live[:, None], away, 0.0)
        own = tl.sum(away, 0) * quotient(tl.full((), 1.0, x.dtype), held)
    else:
        own = tl.sum(away, 0) * (1.0 / held)  # exact: a constant, a power of two
    away -= own[None, :]
    if MASKED:
        away = tl.where(live[:, None], away, 0.0)
        share = quotient(held, before + held)
    else:
        share = held / (before + held)
    gap = own - mean
    added = tl.sum(away * away, 0) + gap * gap * (before * share)
    # in float64: equal squares that follow the large one of an outlier would round alike
    squares += tl.sum(added.to(tl.float64), 0)
    norm_sum += tl.sum(norm, 0).to(tl.float64)
    norm_max = tl.maximum(norm_max, tl.max(norm, 0))
    return mean + gap * share, squares, norm_sum, norm_max, squared


@triton.jit
def move_shift(shift, mean):
    """The shift at the mean, as near as rounding allows, and the mean relative to it."""
    moved = shift + mean
    return moved, mean - (moved - shift)


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

    Returns the mean, the sum of squares around it, and the sum and maximum of the norms. With WIDE,
    the square of every row is stored in ``row_squares``; if ``known``, it is added to the value
    already there.
    """
    row = tl.arange(0, ROWS)
    live = row < length
    rows = tl.load(permutation + row, mask=live, other=0)
    ahead = tl.load(permutation + ROWS + row, mask=ROWS + row < length, other=0)

    # the first row gives the scale, the first tile the shift; a segment without rows gives zeros
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
    zero = tl.zeros_like(first)
    none = tl.zeros((), tl.float64)
    held = tl.maximum(tl.minimum(length, ROWS), 1).to(ACC)
    shift = first * scale
    mean, squares, norm_sum, norm_max, squared = add_tile(
        x * scale, live, held, tl.zeros((), ACC), shift, zero, none, none, tl.zeros((), ACC),
        MASKED=True,
    )  # fmt: skip
    shift, mean = move_shift(shift, mean)
    if WIDE:
        add_squares(row_squares + row, squared, unscale, known, live)
    full = length // ROWS * ROWS
    for begin in tl.range(ROWS, full, ROWS):
        rows = ahead
        later = begin + ROWS + row
        ahead = tl.load(permutation + later, mask=later < length, other=0)
        x = load_tile(feats, rows, cols, row_stride, col_stride, inside[None, :], ACC) * scale
        mean, squares, norm_sum, norm_max, squared = add_tile(
            x, live, ROWS, tl.zeros((), ACC) + begin, shift, mean, squares, norm_sum, norm_max,
            MASKED=False,
        )  # fmt: skip
        if WIDE:
            add_squares(row_squares + begin + row, squared, unscale, known, row >= 0)
    if (full > 0) & (full < length):
        live = full + row < length
        mask = live[:, None] & inside[None, :]
        x = load_tile(feats, ahead, cols, row_stride, col_stride, mask, ACC) * scale
        mean, squares, norm_sum, norm_max, squared = add_tile(
            x, live, (length - full).to(ACC), full.to(ACC), shift, mean, squares, norm_sum,
            norm_max, MASKED=True,
        )  # fmt: skip
        if WIDE:
            add_squares(row_squares + full + row, squared, unscale, known, live)

    ss = squares * unscale * unscale
    total = norm_sum * unscale
    largest = norm_max.to(tl.float64) * unscale
    largest = tl.where(total != total, total, largest)  # max drops NaN
    return (shift.to(tl.float64) + mean.to(tl.float64)) * unscale, ss, total, largest


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
    mean, ss, total, largest = moments_of_run(
        feats, permutation + start, length, cols, inside, row_stride, col_stride,
        row_squares + start, turn > 0, ROWS, AGAIN, ACC, WIDE,
    )  # fmt: skip
    if owner >= 0:
        slot = tl.load(segments + 3 * number + segment).to(tl.int64)
        if slot < 0:
            tl.store(means + owner * dim + cols, mean + mend, mask=inside)
        else:
            some = tl.zeros_like(cols) < length  # else unused, and slot 0 is another's
            tl.store(partial_mean + slot * dim + cols, mean, mask=inside & some)
    if WIDE:
        tl.debug_barrier()  # threads read squares that other threads wrote
    return ss, total, largest


@triton.jit(do_not_specialize=["width", "row_units", "number"])
def moments_of_segments(
    feats,
    permutation,
    segments,
    poison,
    partial_mean,  # (slots, D) float64
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
    if (owner >= 0) & (tl.load(segments + 3 * number + segment) < 0):
        tl.store(within + owner, inner + mend)
