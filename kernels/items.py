"""First launch: the moments of every item, a run of sorted rows that share a class.

Rows are read once, through the permutation. Inside an item they are taken relative to a shift:
the item's first row plus the mean, relative to it, of the rows of its first tile. The first row
makes the shift exact for identical rows, the mean keeps an outlier in that place from costing
accuracy: with L rows in the item and R in the tile, ``S2 - S1^2 / n`` loses a factor of about
1 + L / R^2 at most. Everything is multiplied by a power of two that brings the item's first row
near one, so that squares neither overflow nor vanish.

Twin in plain torch: `ncfast.kernels.twins.items`.
"""

import triton
import triton.language as tl


@triton.jit
def power_of_two_below(value):
    """1 / 2^floor(log2(value)) from the exponent bits; 1 for zero, infinity and NaN."""
    bits = value.to(tl.float32).to(tl.int32, bitcast=True) & 0x7F800000
    scale = (0x7F000000 - tl.minimum(bits, 0x7E800000)).to(tl.float32, bitcast=True)
    return tl.where((value > 0) & (bits < 0x7F800000), scale, 1.0)


@triton.jit
def add_tile(x, live, shift, sum1, sum2, norm_sum, norm_max, MASKED: tl.constexpr):
    """One tile of scaled rows into the sums by column and into the sum and maximum of norms."""
    squared = tl.sum(x * x, 1)
    norm = tl.sqrt(squared)
    away = x - shift[None, :]
    if MASKED:
        away = tl.where(live[:, None], away, 0.0)
    sum1 += tl.sum(away, 0)
    sum2 += tl.sum(away * away, 0)
    return sum1, sum2, norm_sum + norm, tl.maximum(norm_max, norm), squared


@triton.jit
def load_tile(feats, rows, cols, row_stride, col_stride, mask, ACC: tl.constexpr):
    """Rows by their numbers, in the type that is computed in."""
    offsets = rows.to(tl.int64)[:, None] * row_stride + cols.to(tl.int64)[None, :] * col_stride
    # the interpreter miscomputes on bfloat16: convert before anything else
    return tl.load(feats + offsets, mask=mask, other=0.0).to(ACC)


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
    ROWS: tl.constexpr,
    ACC: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """The rows that ``permutation`` starts with: their mean is ``(shift + rest) * unscale``.

    Also the sum of squares around it, and the sum and maximum of norms; or, with SPLIT, every row's
    square into ``row_squares``.
    """
    row = tl.arange(0, ROWS)
    live = row < length
    rows = tl.load(permutation + row, mask=live, other=0)
    ahead = tl.load(permutation + ROWS + row, mask=ROWS + row < length, other=0)

    # the first tile gives the scale and the shift; a run of no row finds itself all zero
    mask = live[:, None] & inside[None, :]
    x = load_tile(feats, rows, cols, row_stride, col_stride, mask, ACC)
    first = tl.sum(tl.where((row == 0)[:, None], x, 0.0), 0)
    scale = power_of_two_below(tl.max(tl.abs(first), 0)).to(ACC)
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
    if SPLIT:
        tl.store(row_squares + rows, squared.to(tl.float64) * unscale * unscale, mask=live)
    full = length // ROWS * ROWS
    for begin in tl.range(ROWS, full, ROWS):
        rows = ahead
        later = begin + ROWS + row
        ahead = tl.load(permutation + later, mask=later < length, other=0)
        x = load_tile(feats, rows, cols, row_stride, col_stride, inside[None, :], ACC) * scale
        sum1, sum2, norm_sum, norm_max, squared = add_tile(
            x, live, shift, sum1, sum2, norm_sum, norm_max, MASKED=False
        )
        if SPLIT:
            tl.store(row_squares + rows, squared.to(tl.float64) * unscale * unscale)
    if (full > 0) & (full < length):
        live = full + row < length
        mask = live[:, None] & inside[None, :]
        x = load_tile(feats, ahead, cols, row_stride, col_stride, mask, ACC) * scale
        sum1, sum2, norm_sum, norm_max, squared = add_tile(
            x, live, shift, sum1, sum2, norm_sum, norm_max, MASKED=True
        )
        if SPLIT:
            tl.store(row_squares + ahead, squared.to(tl.float64) * unscale * unscale, mask=live)

    rest = sum1 / tl.maximum(length, 1).to(ACC)
    spread = sum2 - sum1 * rest
    spread = tl.where(spread < 0, 0.0, spread)  # not max(., 0), which would drop a NaN
    ss = tl.sum(tl.where(inside, spread, 0.0), 0).to(tl.float64) * unscale * unscale
    total = tl.sum(norm_sum, 0).to(tl.float64) * unscale
    largest = tl.max(norm_max, 0).to(tl.float64) * unscale
    largest = tl.where(total != total, total, largest)  # a maximum drops NaN
    return shift, rest, scale, unscale, ss, total, largest


@triton.jit(do_not_specialize=["width", "row_units", "number", "count"])
def moments_of_items(
    feats,
    permutation,
    items,
    poison,
    partial_mean,  # (slots, D), relative to the class's first row
    partial_ss,  # (GROUPS, number) float64
    means,
    within,
    norm_sums,  # (number,) float64
    norm_maxs,  # (number,) float64
    row_squares,  # (GROUPS, count) float64, with several groups only
    width,
    row_units,
    col_stride,
    number,
    count,
    ALIGN: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    GROUPS: tl.constexpr,
    ACC: tl.constexpr,
):
    """A program for an item and a group of columns; the grid is (number, GROUPS)."""
    item = tl.program_id(0)
    group = tl.program_id(1).to(tl.int64)
    start = tl.load(items + item)
    length = tl.load(items + number + item)
    owner = tl.load(items + 2 * number + item).to(tl.int64)
    pivot = tl.load(items + 3 * number + item).to(tl.int64)
    slot = tl.load(items + 4 * number + item).to(tl.int64)
    dim = width * ALIGN
    row_stride = row_units.to(tl.int64) * ALIGN
    cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = cols < dim
    shift, rest, scale, unscale, ss, total, largest = moments_of_run(
        feats, permutation + start, length, cols, inside, row_stride, col_stride,
        row_squares + group * count, ROWS, ACC, GROUPS > 1,
    )  # fmt: skip
    if GROUPS == 1:
        tl.store(norm_sums + item, total)
        tl.store(norm_maxs + item, largest)
    tl.store(partial_ss + group * number + item, ss)
    if owner >= 0:
        if slot < 0:
            mend = tl.load(poison)
            mean = (shift.to(tl.float64) + rest.to(tl.float64)) * unscale
            tl.store(means + owner * dim + cols, mean + mend, mask=inside)
            if GROUPS == 1:
                tl.store(within + owner, ss + mend)
        else:
            origin = feats + pivot * row_stride + cols.to(tl.int64) * col_stride
            base = tl.load(origin, mask=inside, other=0.0).to(ACC) * scale
            relative = ((shift - base) + rest) * unscale.to(ACC)
            tl.store(partial_mean + slot * dim + cols, relative, mask=inside)
