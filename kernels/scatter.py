"""Kernel for the within-class scatter matrix, on tensor cores.

It computes ``sum_i (x_i - mean)(x_i - mean)^T`` in square tiles of the lower triangle. Residuals
are float32. The class mean is stored as a float32 and the remainder of rounding, so residuals are
accurate to float32 rounding even if the class is strongly collapsed. Each factor of a product is
split into three bfloat16 pieces. The sum of a few hundred rows is kept in float32 and then added to
a float64 in memory.

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
    centres,  # (2, K, D) float32: rounded means, and the remainder of rounding; with TWO, twice
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
    TWO: tl.constexpr,  # the second factor has means of its own
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
    others = centres + 2 * rest if TWO else centres
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
    side = config.side
    shape = (config.parts, config.tiles, side, side)
    partial = torch.empty(shape, dtype=torch.float64, device=feats.device)
    scale = _power_of_two(largest)
    with on(feats.device):
        scatter_tiles[(config.tiles, config.parts)](
            feats, labels, centres, scale, partial, len(feats),
            centres.shape[-2], *layout(feats), config.span, ALIGN=align_of(feats), SIDE=side,
            ROWS=config.rows, FLUSH=config.flush, PRECISION=precision("bf16x6", feats.device),
            TWO=centres.ndim == 4, num_warps=config.warps, num_stages=config.stages, **OPTIONS,
        )  # fmt: skip
    return _unfold(partial.sum(0) / scale.to(torch.float64) ** 2, feats.shape[1])


def _power_of_two(largest: Tensor) -> Tensor:
    """Power of two that brings a magnitude near 1: () float32."""
    exponent = torch.frexp(largest).exponent.clamp(-126, 126)
    return ((127 - exponent) << 23).to(torch.int32).view(torch.float32)  # exact, unlike exp2


def _unfold(tiles: Tensor, dim: int) -> Tensor:
    """The symmetric matrix from the tiles of its lower triangle, in order of rows."""
    side = tiles.shape[1]
    index = torch.arange(-(-dim // side), device=tiles.device)
    high, low = torch.maximum(index[:, None], index), torch.minimum(index[:, None], index)
    # the tiles above the diagonal are wrong; tril drops them
    square = tiles[(high * (high + 1) // 2 + low)].permute(0, 2, 1, 3)
    whole = square.reshape(len(index) * side, -1)[:dim, :dim]
    return whole.tril() + whole.tril(-1).T
