"""Kernel for the sum of squared projections of rows, centred by their class means, on vectors.

It computes ``sum_i <x_i - mean of its class, v>^2`` for each vector v. Tr(Sigma_W Sigma_B^+) needs
only these sums if K <= D, and no D x D matrix. Before the product, a row is centred by its class
mean rounded to float32. The remainder of that rounding is projected in float64 beforehand and
subtracted from the product, so strongly collapsed classes lose no accuracy.

Oracle: `project` in tests/twins.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ncfast.kernels.configuration import ProjectConfig
from ncfast.kernels.launch import OPTIONS, align_of, known, layout, on, precision


@triton.jit(do_not_specialize=["width", "row_units", "count", "classes", "vectors_number"])
def projected_squares(
    feats,
    labels,
    centres,  # (K, D) float32
    offsets,  # (K, V) float32: <mean - centre, v>
    vectors,  # (V, D) float32
    partial,  # (programs, V) float64
    count,
    classes,
    width,
    row_units,
    col_stride,
    vectors_number,
    ALIGN: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    VECTORS: tl.constexpr,  # vectors of a program, a power of two
    PRECISION: tl.constexpr,
):
    """One program strides over tiles of rows for one block of vectors: (programs, blocks)."""
    program = tl.program_id(0)
    dim = width * ALIGN
    row_stride = row_units.to(tl.int64) * ALIGN
    number = tl.program_id(1) * VECTORS + tl.arange(0, VECTORS)
    wanted = number < vectors_number
    total = tl.zeros([VECTORS], tl.float64)
    for begin in tl.range(program * ROWS, count, tl.num_programs(0) * ROWS):
        row = begin + tl.arange(0, ROWS)
        live = row < count
        owner = tl.load(labels + row, mask=live, other=0).to(tl.int64)
        owner = tl.where((owner >= 0) & (owner < classes), owner, 0)
        source = feats + row.to(tl.int64)[:, None] * row_stride
        product = tl.zeros([ROWS, VECTORS], tl.float32)
        for first in tl.range(0, dim, COLS):
            cols = first + tl.arange(0, COLS)
            inside = cols < dim
            mask = live[:, None] & inside[None, :]
            x = tl.load(source + cols.to(tl.int64)[None, :] * col_stride, mask=mask, other=0.0)
            centre = tl.load(centres + owner[:, None] * dim + cols[None, :], mask=mask, other=0.0)
            v = tl.load(
                vectors + number.to(tl.int64)[None, :] * dim + cols[:, None],
                mask=wanted[None, :] & inside[:, None],
                other=0.0,
            )
            away = x.to(tl.float32) - centre
            product = tl.dot(away, v, product, input_precision=PRECISION)
        mask = live[:, None] & wanted[None, :]
        shift = tl.load(
            offsets + owner[:, None] * vectors_number + number[None, :], mask=mask, other=0.0
        )
        # squared in float64: the square of a small float32 underflows
        along = (product - shift).to(tl.float64)
        total += tl.sum(along * along, 0)
    tl.store(partial + program * vectors_number + number, total, mask=wanted)


def projected_ss(
    feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor, config: ProjectConfig
) -> Tensor:
    """Sum over rows of <x - mean of its class, v>^2 for each row v of ``vectors``: (V,) float64.

    ``feats`` (N, D) may have any float type except float64; ``means`` (K, D) are float64. A label
    outside 0..K-1 makes every sum NaN.
    """
    count, (classes, number) = feats.shape[0], (means.shape[0], vectors.shape[0])
    labels, inside = known(labels, classes)
    vectors = vectors.to(torch.float64)
    centres = means.to(torch.float32)
    # the projected remainder of rounding; means of absent classes are never read
    offsets = ((means - centres) @ vectors.T).to(torch.float32).contiguous()
    partial = torch.empty((config.programs, number), dtype=torch.float64, device=feats.device)
    with on(feats.device):
        projected_squares[(config.programs, config.blocks)](
            feats, labels, centres.contiguous(), offsets, vectors.to(torch.float32).contiguous(),
            partial, count, classes, *layout(feats), number, ALIGN=align_of(feats),
            ROWS=config.tile_rows, COLS=config.tile_cols, VECTORS=config.vectors,
            PRECISION=precision("tf32x3", feats.device), num_warps=config.warps,
            num_stages=config.stages, **OPTIONS,
        )  # fmt: skip
    return torch.where(inside, partial.sum(0), torch.nan)
