"""Kernels for the gradient through class moments: one read and one write of the features.

The gradient of row i of class c is ``x_i * slope + shared[c]``: `ncfast.ops.gradient.class_terms`
has made both from the gradients of means and sums of squares, and the norms of rows add to the
slope. A program also notes its largest norm; the second kernel then writes the one row that the
gradient of the largest norm concerns once more.

Oracle: `ncfast.ops.gradient.reference`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ncfast.kernels.configuration import GradientConfig
from ncfast.kernels.launch import OPTIONS, align_of, layout, on


@triton.jit
def norms_of_rows(source, live, dim, col_stride, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Norms of a tile of rows, float64 (ROWS,)."""
    squares = tl.zeros([ROWS], tl.float64)
    for first in tl.range(0, dim, COLS):
        cols = first + tl.arange(0, COLS)
        mask = live[:, None] & (cols < dim)[None, :]
        x = tl.load(source + cols.to(tl.int64)[None, :] * col_stride, mask=mask, other=0.0)
        x = x.to(tl.float64)
        squares += tl.sum(x * x, 1)
    return tl.sqrt(squares)


@triton.jit
def inverse(norm):
    """1 / norm; zero for a row of zeros, which has no direction."""
    return tl.where(norm > 0, 1.0 / tl.where(norm > 0, norm, 1.0), tl.where(norm == 0, 0.0, norm))


@triton.jit
def write_rows(
    source, to, shared, factor, live, dim, col_stride, ROWS: tl.constexpr, COLS: tl.constexpr
):
    """Writes x * factor + shared for a tile of rows; ``shared`` points to the row of each class."""
    for first in tl.range(0, dim, COLS):
        cols = first + tl.arange(0, COLS)
        mask = live[:, None] & (cols < dim)[None, :]
        x = tl.load(source + cols.to(tl.int64)[None, :] * col_stride, mask=mask, other=0.0)
        own = tl.load(shared + cols[None, :], mask=mask, other=0.0)
        found = x.to(tl.float64) * factor[:, None] + own
        if to.dtype.element_ty != tl.float64:
            found = found.to(tl.float32)
        tl.store(to + cols[None, :], found.to(to.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["count", "classes", "width", "row_units"])
def row_gradients(
    feats,
    labels,
    shared,  # (K, D) float64
    slopes,  # (K,) float64
    norm_slope,  # () float64; None: the norms are not needed, or for the largest row alone
    largest,  # (programs,) float64, the largest norm of a program's rows; None: not needed
    largest_row,  # (programs,) int64, the first row that has it
    out,  # (N, D), contiguous
    count,
    classes,
    width,
    row_units,
    col_stride,
    ALIGN: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """One program writes the gradients of one tile of rows."""
    dim = width * ALIGN
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = row < count
    owner = tl.load(labels + row, mask=live, other=0).to(tl.int64)
    known = (owner >= 0) & (owner < classes)
    owner = tl.where(known, owner, 0)
    factor = tl.load(slopes + owner)
    factor = tl.where(known, factor, float("nan"))
    source = feats + row[:, None] * (row_units.to(tl.int64) * ALIGN)
    if norm_slope is not None or largest is not None:
        norm = norms_of_rows(source, live, dim, col_stride, ROWS, COLS)
        if norm_slope is not None:
            factor += tl.load(norm_slope) * inverse(norm)
        if largest is not None:
            norm = tl.where(live & (norm == norm), norm, -1.0)
            top = tl.max(norm, 0)
            first = tl.min(tl.where(norm == top, row, count), 0)
            tl.store(largest + tl.program_id(0), top)
            tl.store(largest_row + tl.program_id(0), first)
    write_rows(
        source, out + row[:, None] * dim, shared + owner[:, None] * dim, factor, live, dim,
        col_stride, ROWS, COLS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["count", "programs", "classes", "width", "row_units"])
def add_largest_norm(
    feats,
    labels,
    shared,
    slopes,
    norm_slope,
    largest_slope,  # () float64, the gradient with respect to the largest norm
    largest,
    largest_row,
    out,
    count,
    programs,
    classes,
    width,
    row_units,
    col_stride,
    ALIGN: tl.constexpr,
    SIZE: tl.constexpr,
    COLS: tl.constexpr,
):
    """One program writes the row of the largest norm again, with the gradient of that norm."""
    dim = width * ALIGN
    top = tl.full([SIZE], -1.0, tl.float64)
    first = tl.zeros([SIZE], tl.int64) + count
    for begin in tl.range(0, programs, SIZE):
        place = begin + tl.arange(0, SIZE)
        norm = tl.load(largest + place, mask=place < programs, other=-1.0)
        found = tl.load(largest_row + place, mask=place < programs, other=0)
        first = tl.where(norm > top, found, first)  # later programs have later rows
        top = tl.where(norm > top, norm, top)
    norm = tl.max(top, 0)
    row = tl.min(tl.where(top == norm, first, count), 0) + tl.arange(0, 1)
    live = row < count
    owner = tl.load(labels + row, mask=live, other=0).to(tl.int64)
    known = (owner >= 0) & (owner < classes)
    owner = tl.where(known, owner, 0)
    slope = tl.load(largest_slope)
    if norm_slope is not None:
        slope += tl.load(norm_slope)
    factor = tl.load(slopes + owner) + slope * inverse(norm)
    factor = tl.where(known, factor, float("nan"))
    source = feats + row[:, None] * (row_units.to(tl.int64) * ALIGN)
    write_rows(
        source, out + row[:, None] * dim, shared + owner[:, None] * dim, factor, live, dim,
        col_stride, 1, COLS,
    )  # fmt: skip


def moment_gradients(
    feats: Tensor,
    labels: Tensor,
    shared: Tensor,
    slopes: Tensor,
    norms: tuple[Tensor | None, Tensor | None],
    config: GradientConfig,
) -> Tensor:
    """The gradient with respect to ``feats`` (N, D), contiguous, in one launch or two.

    ``shared`` (K, D) and ``slopes`` (K,) are float64; ``norms`` the gradients with respect to the
    sum of norms and the largest norm, () each, where there are any.
    """
    feats, labels = feats.resolve_neg(), labels.to(torch.int64).contiguous()
    count, programs, device = len(feats), -(-len(feats) // config.tile_rows), feats.device
    norm_slope, largest_slope = (None if g is None else g.to(torch.float64) for g in norms)
    out = torch.empty(feats.shape, dtype=feats.dtype, device=device)
    shared, slopes = shared.contiguous(), slopes.contiguous()
    largest = largest_row = None
    if largest_slope is not None:
        largest = torch.empty(programs, dtype=torch.float64, device=device)
        largest_row = torch.empty(programs, dtype=torch.int64, device=device)
    place, align = layout(feats), align_of(feats)
    with on(device):
        row_gradients[(programs,)](
            feats, labels, shared, slopes, norm_slope, largest, largest_row, out, count,
            len(shared), *place, ALIGN=align, ROWS=config.tile_rows, COLS=config.tile_cols,
            num_warps=config.warps, **OPTIONS,
        )  # fmt: skip
        if largest_slope is not None:
            add_largest_norm[(1,)](
                feats, labels, shared, slopes, norm_slope, largest_slope, largest, largest_row,
                out, count, programs, len(shared), *place, ALIGN=align, SIZE=1024,
                COLS=config.tile_cols, num_warps=config.warps, **OPTIONS,
            )  # fmt: skip
    return out
