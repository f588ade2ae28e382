"""Kernels that decide which affine score of a row is the largest, with the result of float64.

``argmax_c <x - centre, w_c> + offset_c`` expresses both the nearest class mean and the classifier's
prediction. No N x K matrix is stored. The first kernel keeps a row's two largest scores in float32
and a bound on their rounding error. The row is decided if the scores differ by more than twice that
bound. The second kernel finds the undecided rows on the device and scores them in float64.

Oracle: `decide` in tests/twins.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ncfast.kernels.configuration import DecideConfig
from ncfast.kernels.launch import OPTIONS, align_of, in_two, layout, on, precision

_EPSILON = 2.0**-23


@triton.jit(do_not_specialize=["count", "classes", "width", "row_units"])
def decide_in_float32(
    feats,
    centres,  # (2, R, D) float32: the rounded centre of each rule, and the remainder of rounding
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
    rounding,  # error of a sum of products, relative to the product of the norms
    offset_rounding,  # error of an offset, relative to the largest
    norm_floor,  # norm that underflow may hide
    floor,  # error that underflow of products may cause
    ALIGN: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    CLASSES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program per tile of rows and rule; the grid is (tiles, R)."""
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
            # sum of short sums: the rounding bound grows with D / COLS instead of D
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
    # the floors cover underflow: of squares of entries below 1e-19, of products below 1e-38
    size = (tl.sqrt(squares) + norm_floor) * largest
    error = rounding * size + offset_rounding * shift + floor
    decided = (best - second) > 2 * error  # False for NaN or infinity
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
    """One program per block of rows and rule; the grid is (blocks, R)."""
    rule = tl.program_id(1).to(tl.int64)
    dim = width * ALIGN
    lane = tl.arange(0, BLOCK)
    begin = tl.program_id(0) * BLOCK
    place = rule * count + begin
    flagged = tl.load(undecided + place + lane, mask=begin + lane < count, other=0).to(tl.int32)
    number = tl.sum(flagged, 0)
    if number > 0:
        tl.store(listed + place + tl.cumsum(flagged, 0) - 1, begin + lane, mask=flagged > 0)
        tl.debug_barrier()  # threads read entries of the list that other threads wrote
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
                    # float32 is exact here; the interpreter cannot convert bfloat16 directly
                    wide = x if x.dtype == tl.float64 else x.to(tl.float32).to(tl.float64)
                    wide -= centre[None, :]
                    if x.dtype.primitive_bitwidth == 16:
                        # a sum of one term: Triton 3.5 and 3.6 do not compile the product if the
                        # factor leads back to a load of 16 bits
                        wide = tl.sum(tl.reshape(wide, [ROWS, COLS, 1]), 2)
                    score = tl.dot(wide, w, score, out_dtype=tl.float64)
                offset = tl.load(offsets + rule * classes + name, mask=wanted, other=float("-inf"))
                score += offset[None, :]
                score = tl.where(score == score, score, float("-inf"))
                value = tl.max(score, 1)
                index = tl.where(value > best, low + tl.argmax(score, 1), index)
                best = tl.maximum(best, value)
            tl.store(chosen + rule * count + row, index.to(tl.int64), mask=live)


def decisions(
    feats: Tensor, centres: Tensor, weights: Tensor, offsets: Tensor, config: DecideConfig
) -> Tensor:
    """argmax_c <x - centre, weight_c> + offset_c for each of R rules: (R, N) int64.

    ``centres`` (R, D), ``weights`` (R, K, D) and ``offsets`` (R, K) are float64. The smaller index
    wins a tie. A row of NaN gets index 0.
    """
    count, (rules, classes, _) = feats.shape[0], weights.shape
    made = {"device": feats.device}
    chosen = torch.empty((rules, count), dtype=torch.int64, **made)
    exact = feats.dtype == torch.float64
    undecided = torch.empty((rules, count), dtype=torch.int8, **made)
    listed = torch.empty((rules, count), dtype=torch.int32, **made)
    with on(feats.device):
        if exact:
            undecided.fill_(1)
        else:
            _decide_in_float32(feats, centres, weights, offsets, chosen, undecided, config)
        decide_in_float64[(-(-count // config.block), rules)](
            feats, centres.contiguous(), weights.contiguous(), offsets.contiguous(), undecided,
            listed, chosen, count, classes, *layout(feats), ALIGN=align_of(feats),
            BLOCK=config.block, ROWS=config.exact_rows, COLS=config.exact_cols,
            CLASSES=config.exact_classes, num_warps=4, num_stages=2, **OPTIONS,
        )  # fmt: skip
    return chosen


def _decide_in_float32(
    feats: Tensor,
    centres: Tensor,
    weights: Tensor,
    offsets: Tensor,
    chosen: Tensor,
    undecided: Tensor,
    config: DecideConfig,
) -> None:
    (count, dim), (rules, classes, _) = feats.shape, weights.shape
    largest = torch.linalg.vector_norm(weights, dim=2).amax(1)
    shift = torch.where(offsets.isinf(), 0.0, offsets).abs().amax(1)
    # in units of rounding: three pieces per addition of a short sum, one per short sum, at most 24
    # for the part of a product that the pieces omit, 8 for the inputs
    rounding = _EPSILON * (3 * config.tile_cols + dim / config.tile_cols + 32)
    decide_in_float32[(-(-count // config.tile_rows), rules)](
        feats, in_two(centres), weights.to(torch.float32).contiguous(),
        offsets.to(torch.float32).contiguous(), torch.stack((largest, shift)).to(torch.float32),
        chosen, undecided, count, classes, *layout(feats), rounding, 2 * _EPSILON,
        dim**0.5 * 2.0**-62, dim * 2.0**-123, ALIGN=align_of(feats), ROWS=config.tile_rows,
        COLS=config.tile_cols, CLASSES=config.tile_classes,
        PRECISION=precision("tf32x3", feats.device), num_warps=config.warps,
        num_stages=config.stages, **OPTIONS,
    )  # fmt: skip
