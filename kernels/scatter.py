"""Second read: the within-class scatter matrix, on tensor cores.

``sum_i (x_i - mean)(x_i - mean)^T`` in square tiles of its lower triangle. Residuals are taken in
float32 around the class mean, itself kept as a float32 and what rounding left of it, so that they
are good to float32 rounding however collapsed the class is. Products are made of three bfloat16
pieces of each factor; what a few hundred rows add up to in float32 is added to a float64 in memory.

Twin in plain torch: `ncfast.kernels.twins.scatter`.
"""

import triton
import triton.language as tl


@triton.jit
def residual(feats, centres, rest, row, owner, live, cols, dim, row_stride, col_stride, scale):
    """Scaled distance from the class mean, for a tile of rows and columns; zero outside."""
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
    centres,  # (2, K, D) float32: rounded means, and what rounding left
    scale,  # () float32, a power of two that brings the features near one
    partial,  # (parts, tiles, SIDE, SIDE) float64
    count,
    classes,
    width,
    row_units,
    col_stride,
    span,  # rows of a part
    ALIGN: tl.constexpr,
    SIDE: tl.constexpr,
    ROWS: tl.constexpr,  # of a product
    FLUSH: tl.constexpr,  # rows summed in float32
    PRECISION: tl.constexpr,
):
    """A program for a tile of the lower triangle and a part of the rows: (tiles, parts)."""
    tile = tl.program_id(0)
    # the row of the triangle by a square root, which may be one off
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
        tl.debug_barrier()  # the sums may be read by other threads than wrote them
        tl.store(sums, tl.load(sums) + product.to(tl.float64))
