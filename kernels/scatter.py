"""Kernel for the within-class scatter matrix, on tensor cores.

It computes ``sum_i (x_i - mean)(x_i - mean)^T`` in square tiles of the lower triangle. Residuals
are float32. The class mean is stored as a float32 and the remainder of rounding, so residuals are
accurate to float32 rounding even if the class is strongly collapsed. Each factor of a product is
split into three bfloat16 pieces. The sum of a few hundred rows is kept in float32 and then added to
a float64 in memory.

Oracle: `ncfast.kernels.twins.scatter`.
"""

import triton
import triton.language as tl


@triton.jit
def residual(feats, centres, rest, row, owner, live, cols, dim, row_stride, col_stride, scale):
    """Scaled difference from the class mean for a tile of rows and columns; 0 outside the data."""
    mask = live[:, None] & (cols < dim)[None, :]
    offset = row.to(tl.int64)[:, None] * row_stride + cols.to(tl.int64)[None, :] * col_stride
    x = tl.load(feats + offset, mask=mask, other=0.0).to(tl.float32)
    place = owner[:, None] * dim + cols[None, :]
    centre = tl.load(centres + place, mask=mask, other=0.0)
    left = tl.load(centres + rest + place, mask=mask, other=0.0)
    return ((x - centre) - left) * scale


@triton.jit(do_not_specialize=["count", "classes", "width", "row_units", "span"])
def scatter_tiles(
    feats,
    labels,
    centres,  # (2, K, D) float32: rounded means, and the remainder of rounding
    scale,  # () float32, a power of two that brings the features near 1
    partial,  # (parts, tiles, SIDE, SIDE) float64
    count,
    classes,
    width,
    row_units,
    col_stride,
    span,  # rows of a part
    ALIGN: tl.constexpr,
    SIDE: tl.constexpr,
    ROWS: tl.constexpr,  # rows multiplied in one step of the product
    FLUSH: tl.constexpr,  # rows summed in float32 before they are added in float64
    PRECISION: tl.constexpr,
):
    """One program per tile of the lower triangle and part of the rows: (tiles, parts)."""
    tile = tl.program_id(0)
    # the row of the triangle comes from a square root that may be off by one
    high = ((tl.sqrt(8.0 * tile.to(tl.float32) + 1.0) - 1.0) / 2.0).to(tl.int32)
    high = tl.where((high + 1) * (high + 2) // 2 <= tile, high + 1, high)
    high = tl.where(high * (high + 1) // 2 > tile, high - 1, high)
    low = tile - high * (high + 1) // 2
    dim = width * ALIGN
    row_stride = row_units.to(tl.int64) * ALIGN
    rest = classes.to(tl.int64) * dim
    side = tl.arange(0, SIDE)
    factor = tl.load(scale)
    place = (tl.program_id(1) * tl.num_programs(0) + tile).to(tl.int64) * SIDE * SIDE
    sums = partial + place + side[:, None] * SIDE + side[None, :]
    tl.store(sums, tl.zeros([SIDE, SIDE], tl.float64))
    begin = tl.program_id(1) * span
    stop = tl.minimum(begin + span, count)
    for block in tl.range(begin, stop, FLUSH):
        product = tl.zeros([SIDE, SIDE], tl.float32)
        for start in tl.range(block, tl.minimum(block + FLUSH, stop), ROWS):
            row = start + tl.arange(0, ROWS)
            live = row < stop
            owner = tl.load(labels + row, mask=live, other=0).to(tl.int64)
            owner = tl.where((owner >= 0) & (owner < classes), owner, 0)
            a = residual(
                feats, centres, rest, row, owner, live, high * SIDE + side, dim, row_stride,
                col_stride, factor,
            )  # fmt: skip
            b = residual(
                feats, centres, rest, row, owner, live, low * SIDE + side, dim, row_stride,
                col_stride, factor,
            )  # fmt: skip
            product = tl.dot(tl.trans(a), b, product, input_precision=PRECISION)
        tl.debug_barrier()  # threads may read sums that other threads wrote
        tl.store(sums, tl.load(sums) + product.to(tl.float64))
