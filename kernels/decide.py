"""Second read: which affine score is the largest, as in float64, without an N x K matrix.

``argmax_c <x - centre, w_c> + offset_c`` is the nearest class mean and the classifier's choice
alike. The first kernel keeps the two largest scores in float32 and a bound on their rounding. Where
their difference exceeds it the row is decided; the few others are scored again in float64 by the
second kernel, which finds them on the device.

Twin in plain torch: `ncfast.kernels.twins.decide`.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["count", "classes", "width", "row_units"])
def decide_in_float32(
    feats,
    centres,  # (2, R, D) float32, the rounded centre of each rule and what rounding left
    weights,  # (R, K, D) float32
    offsets,  # (R, K) float32
    sizes,  # (2, R) float32: the largest norm of a row of weights, the largest finite offset
    chosen,  # (R, N) int64
    undecided,  # (R, N) int8
    count,
    classes,
    width,
    row_units,
    col_stride,
    rounding,  # of a sum of products, by the product of the norms; and of an offset
    offset_rounding,
    norm_floor,
    floor,
    ALIGN: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    CLASSES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A program for a tile of rows and a rule; the grid is (tiles, R)."""
    rule = tl.program_id(1).to(tl.int64)
    rules = tl.num_programs(1)
    dim = width * ALIGN
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = row < count
    source = feats + row.to(tl.int64)[:, None] * (row_units.to(tl.int64) * ALIGN)
    lane = tl.arange(0, CLASSES)
    best = tl.full([ROWS], float("-inf"), tl.float32)
    second = tl.full([ROWS], float("-inf"), tl.float32)
    index = tl.zeros([ROWS], tl.int32)
    squares = tl.zeros([ROWS], tl.float32)
    for start in tl.range(0, classes, CLASSES):
        number = start + lane
        wanted = number < classes
        total = tl.zeros([ROWS, CLASSES], tl.float32)
        squares = tl.zeros([ROWS], tl.float32)
        for first in tl.range(0, dim, COLS):
            cols = first + tl.arange(0, COLS)
            inside = cols < dim
            mask = live[:, None] & inside[None, :]
            x = tl.load(source + cols.to(tl.int64)[None, :] * col_stride, mask=mask, other=0.0)
            centre = tl.load(centres + rule * dim + cols, mask=inside, other=0.0)
            left = tl.load(centres + (rules + rule) * dim + cols, mask=inside, other=0.0)
            w = tl.load(
                weights + (rule * classes + number.to(tl.int64)[None, :]) * dim + cols[:, None],
                mask=wanted[None, :] & inside[:, None],
                other=0.0,
            )
            away = (x.to(tl.float32) - centre[None, :]) - left[None, :]
            squares += tl.sum(away * away, 1)
            # a sum of short sums: the bound on the rounding grows by D / COLS, not by D
            total += tl.dot(away, w, input_precision=PRECISION)
        offset = tl.load(offsets + rule * classes + number, mask=wanted, other=float("-inf"))
        score = total + offset[None, :]
        score = tl.where(score == score, score, float("-inf"))
        value = tl.max(score, 1)
        where = tl.argmax(score, 1)
        others = tl.where(lane[None, :] == where[:, None], float("-inf"), score)
        second = tl.maximum(tl.maximum(second, tl.max(others, 1)), tl.minimum(best, value))
        index = tl.where(value > best, start + where, index)
        best = tl.maximum(best, value)
    largest = tl.load(sizes + rule)
    shift = tl.load(sizes + rules + rule)
    # entries under 1e-19 vanish from the squares, products under 1e-38 from the sums: the floors
    size = (tl.sqrt(squares) + norm_floor) * largest
    error = rounding * size + offset_rounding * shift + floor
    decided = (best - second) > 2 * error  # no comparison with NaN or infinity holds
    place = rule * count + row
    tl.store(chosen + place, index.to(tl.int64), mask=live)
    tl.store(undecided + place, (~decided).to(tl.int8), mask=live)


@triton.jit(do_not_specialize=["count", "classes", "width", "row_units"])
def decide_in_float64(
    feats,
    centres,  # (R, D) float64
    weights,  # (R, K, D) float64
    offsets,  # (R, K) float64
    undecided,  # (R, N) int8
    listed,  # (R, N) int32 scratch: the undecided rows of each block
    chosen,  # (R, N) int64
    count,
    classes,
    width,
    row_units,
    col_stride,
    ALIGN: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """A program for a block of rows and a rule; the grid is (blocks, R)."""
    rule = tl.program_id(1).to(tl.int64)
    dim = width * ALIGN
    lane = tl.arange(0, BLOCK)
    begin = tl.program_id(0) * BLOCK
    place = rule * count + begin
    flagged = tl.load(undecided + place + lane, mask=begin + lane < count, other=0).to(tl.int32)
    number = tl.sum(flagged, 0)
    if number > 0:
        tl.store(listed + place + tl.cumsum(flagged, 0) - 1, begin + lane, mask=flagged > 0)
        tl.debug_barrier()  # the list is read by other threads than wrote it
        for start in tl.range(0, number, ROWS):
            item = start + tl.arange(0, ROWS)
            live = item < number
            row = tl.load(listed + place + item, mask=live, other=0)
            source = feats + row.to(tl.int64)[:, None] * (row_units.to(tl.int64) * ALIGN)
            best = tl.full([ROWS], float("-inf"), tl.float64)
            index = tl.zeros([ROWS], tl.int32)
            for low in tl.range(0, classes, CLASSES):
                name = low + tl.arange(0, CLASSES)
                wanted = name < classes
                score = tl.zeros([ROWS, CLASSES], tl.float64)
                for first in tl.range(0, dim, COLS):
                    cols = first + tl.arange(0, COLS)
                    inside = cols < dim
                    x = tl.load(
                        source + cols.to(tl.int64)[None, :] * col_stride,
                        mask=live[:, None] & inside[None, :],
                        other=0.0,
                    )
                    centre = tl.load(centres + rule * dim + cols, mask=inside, other=0.0)
                    w = tl.load(
                        weights + (rule * classes + name.to(tl.int64)[None, :]) * dim
                        + cols[:, None],
                        mask=wanted[None, :] & inside[:, None],
                        other=0.0,
                    )  # fmt: skip
                    # float32 on the way: exact, and all that the interpreter does right in bfloat16
                    wide = x if x.dtype == tl.float64 else x.to(tl.float32).to(tl.float64)
                    score = tl.dot(wide - centre[None, :], w, score, out_dtype=tl.float64)
                offset = tl.load(offsets + rule * classes + name, mask=wanted, other=float("-inf"))
                score += offset[None, :]
                score = tl.where(score == score, score, float("-inf"))
                value = tl.max(score, 1)
                index = tl.where(value > best, low + tl.argmax(score, 1), index)
                best = tl.maximum(best, value)
            tl.store(chosen + rule * count + row, index.to(tl.int64), mask=live)
