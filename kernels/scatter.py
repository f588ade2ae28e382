"""Kernel for the within-class scatter matrix, on tensor cores.

It computes ``sum_i (x_i - mean)(x_i - mean)^T`` in square tiles of the lower triangle. Residuals
are float32. The class mean is stored as a float32 and the remainder of rounding, so residuals are
accurate to float32 rounding even if the class is strongly collapsed. Each factor of a product is
split into three bfloat16 pieces. The sum of a few hundred rows is kept in float32 and then added to
a float64 in memory. A second launch adds the parts of the rows, in a fixed order, and writes the
matrix.

An update of class moments takes the residuals of the two factors around two means, see
`ncfast.kernels.update`, and leaves out rows whose label is out of range.

Oracle: `scatter` in tests/twins.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ncfast.kernels.configuration import ScatterConfig
from ncfast.kernels.launch import OPTIONS, align_of, in_two, known, layout, on, precision

_PARTS, _CELLS = 16, 64  # of a program of `add_parts`: 8 numbers for each of 128 threads


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


@triton.jit
def power_of_two(largest):
    """A float32 power of two that brings a float64 magnitude near 1."""
    exponent = ((largest.to(tl.int64, bitcast=True) >> 52) & 0x7FF) - 1023
    exponent = tl.minimum(tl.maximum(exponent, -126), 126)
    return ((127 - exponent) << 23).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def place_in_triangle(tile):
    """Row and column of a tile of the lower triangle; tiles are numbered row by row."""
    # the row comes from a square root that may be off by one
    high = ((tl.sqrt(8.0 * tile.to(tl.float32) + 1.0) - 1.0) / 2.0).to(tl.int32)
    high = tl.where((high + 1) * (high + 2) // 2 <= tile, high + 1, high)
    high = tl.where(high * (high + 1) // 2 > tile, high - 1, high)
    return high, tile - high * (high + 1) // 2


@triton.jit(do_not_specialize=["count", "classes", "width", "row_units", "span"])
def scatter_tiles(
    feats,
    labels,
    centres,  # (2, K, D) float32: rounded means, and the remainder of rounding; with TWO, twice
    largest,  # () float64, about the magnitude of the features: the scale of the products
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
    TWO: tl.constexpr,  # the second factor has means of its own
):
    """One program per tile of the lower triangle and part of the rows: (tiles, parts)."""
    tile = tl.program_id(0)
    high, low = place_in_triangle(tile)
    dim = width * ALIGN
    row_stride = row_units.to(tl.int64) * ALIGN
    rest = classes.to(tl.int64) * dim
    others = centres + 2 * rest if TWO else centres
    side = tl.arange(0, SIDE)
    factor = power_of_two(tl.load(largest))
    place = (tl.program_id(1) * tl.num_programs(0) + tile).to(tl.int64) * SIDE * SIDE
    sums = partial + place + side[:, None] * SIDE + side[None, :]
    tl.store(sums, tl.zeros([SIDE, SIDE], tl.float64))
    begin = tl.program_id(1) * span
    stop = tl.minimum(begin + span, count)
    for block in tl.range(begin, stop, FLUSH):
        product = tl.zeros([SIDE, SIDE], tl.float32)
        for start in tl.range(block, tl.minimum(block + FLUSH, stop), ROWS):
            row = start + tl.arange(0, ROWS)
            owner = tl.load(labels + row, mask=row < stop, other=-1).to(tl.int64)
            live = (owner >= 0) & (owner < classes)
            a = residual(
                feats, centres, rest, row, owner, live, high * SIDE + side, dim, row_stride,
                col_stride, factor,
            )  # fmt: skip
            b = residual(
                feats, others, rest, row, owner, live, low * SIDE + side, dim, row_stride,
                col_stride, factor,
            )  # fmt: skip
            product = tl.dot(tl.trans(a), b, product, input_precision=PRECISION)
        tl.debug_barrier()  # threads may read sums that other threads wrote
        tl.store(sums, tl.load(sums) + product.to(tl.float64))


@triton.jit(do_not_specialize=["parts", "dim"])
def add_parts(
    partial,  # (parts, tiles, SIDE, SIDE) float64
    largest,  # () float64, as in `scatter_tiles`
    total,  # (D, D) float64
    parts,
    dim,
    SIDE: tl.constexpr,
    PARTS: tl.constexpr,  # added at once
    CELLS: tl.constexpr,  # entries of a tile for one program
):
    """The sum of all parts of a tile, and its mirror image: the grid is (tiles, SIDE^2 / CELLS)."""
    tile = tl.program_id(0)
    high, low = place_in_triangle(tile)
    cell = tl.program_id(1) * CELLS + tl.arange(0, CELLS)
    own = partial + tile.to(tl.int64) * SIDE * SIDE + cell
    step = tl.num_programs(0).to(tl.int64) * SIDE * SIDE
    sums = tl.zeros([PARTS, CELLS], tl.float64)
    for begin in tl.range(0, parts, PARTS):
        part = begin + tl.arange(0, PARTS)
        place = own[None, :] + part.to(tl.int64)[:, None] * step
        sums += tl.load(place, mask=(part < parts)[:, None], other=0.0)
    unscale = 1.0 / power_of_two(tl.load(largest)).to(tl.float64)
    whole = tl.sum(sums, 0) * (unscale * unscale)
    row, col = high * SIDE + cell // SIDE, low * SIDE + cell % SIDE
    inside = (row < dim) & (col <= row)  # above the diagonal of the matrix a tile is wrong
    tl.store(total + row.to(tl.int64) * dim + col, whole, mask=inside)
    tl.store(total + col.to(tl.int64) * dim + row, whole, mask=inside)


def scatter(feats: Tensor, labels: Tensor, means: Tensor, config: ScatterConfig) -> Tensor:
    """Sum over rows of (x - mean)(x - mean)^T: (D, D) float64, exactly symmetric.

    Arguments as in `projected_ss`.
    """
    labels, inside = known(labels, means.shape[0])
    # of all rows: the first row and the means may be 0 beside large residuals
    low, high = torch.aminmax(feats)
    largest = torch.maximum(torch.maximum(-low, high).to(torch.float64), means.abs().amax())
    total = scaled_scatter(feats, labels, in_two(means), largest, config)
    return torch.where(inside, total, torch.nan)


def scaled_scatter(
    feats: Tensor, labels: Tensor, centres: Tensor, largest: Tensor, config: ScatterConfig
) -> Tensor:
    """The sum over the rows with a label in 0..K-1; the features are scaled by ``largest``, ().

    Args:
        feats: (N, D).
        labels: (N,) int64, contiguous.
        centres: (2, K, D) as from `in_two`; (2, 2, K, D) where each factor has means of its own.
        largest: () float64, about the magnitude of features or residuals.
        config: the launch configuration.
    """
    side, tiles, parts, dim = config.side, config.tiles, config.parts, feats.shape[1]
    made = {"dtype": torch.float64, "device": feats.device}
    partial = torch.empty((parts, tiles, side, side), **made)
    total = torch.empty((dim, dim), **made)
    cells = min(_CELLS, side * side)
    with on(feats.device):
        scatter_tiles[(tiles, parts)](
            feats, labels, centres, largest, partial, len(feats),
            centres.shape[-2], *layout(feats), config.span, ALIGN=align_of(feats), SIDE=side,
            ROWS=config.rows, FLUSH=config.flush, PRECISION=precision("bf16x6", feats.device),
            TWO=centres.ndim == 4, num_warps=config.warps, num_stages=config.stages, **OPTIONS,
        )  # fmt: skip
        add_parts[(tiles, side * side // cells)](
            partial, largest, total, parts, dim, SIDE=side, PARTS=_PARTS, CELLS=cells, num_warps=4,
            **OPTIONS,
        )  # fmt: skip
    return total
