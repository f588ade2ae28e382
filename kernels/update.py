"""Kernel that merges a batch into class moments in place, one program per class of the batch.

The segments kernel has computed the moments of the batch's segments. A program adds the segments of
its class in float64, as `ncfast.kernels.merge` does, and merges the sum into the class's row of the
state (Chan, Golub & LeVeque 1983). Rows of other classes are never touched. No atomics, so every
run gives the same bits.

The scatter matrix needs no sum around the means of the batch: with the mean a before the update and
the mean b after it, ``sum (x - a)(x - b)^T`` over the rows of a class is what the class adds. A
class without rows before has the mean of its rows for a.

Oracle: `ncfast.ops.update.reference`.
"""

from __future__ import annotations

from typing import Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor

from ncfast.kernels.configuration import UpdateConfig, alignment
from ncfast.kernels.grouping import PresentSegments
from ncfast.kernels.launch import (
    NORMS_SIZE,
    OPTIONS,
    Grouped,
    Scratch,
    allocate,
    launch_segments,
    on,
)
from ncfast.kernels.merge import add_in_order, add_norms, class_sums
from ncfast.kernels.scatter import scaled_scatter


class State(Protocol):
    """Class moments: K classes, D columns, contiguous; see `ncfast.ClassMoments`."""

    counts: Tensor
    means: Tensor
    within_ss: Tensor
    norm_sum: Tensor
    norm_max: Tensor


@triton.jit
def store_centre(centres, rest, place, exact, inside):
    """Stores a float64 as the nearest float32 and, ``rest`` further on, what rounding left."""
    rounded = exact.to(tl.float32)
    tl.store(centres + place, rounded, mask=inside)
    tl.store(centres + rest + place, (exact - rounded.to(tl.float64)).to(tl.float32), mask=inside)


@triton.jit(do_not_specialize=["width", "number"])
def merge_batch(
    segments,  # (5, W) int32, see `PresentSegments`
    partial_mean,
    totals,  # (3, W), see `moments_of_segments`
    nan_if_invalid,  # () float64
    skipped,  # () int64
    counts,  # the state: (K,) int64
    means,  # (K, D) float64
    within,  # (K,) float64
    norm_sum,  # () float64
    norm_max,
    ignored,  # () int64, to which `skipped` is added; or None
    centres,  # (2, 2, W, D) float32: means before and after, each in two; None with APPLY
    reach,  # (W,) float64: bound on the distance of rows from both means; None with APPLY
    width,
    number,
    ALIGN: tl.constexpr,
    LENGTH: tl.constexpr,  # largest number of rows in a segment
    SEGMENTS: tl.constexpr,
    COLS: tl.constexpr,
    SIZE: tl.constexpr,
    APPLY: tl.constexpr,  # write the state; otherwise what the scatter matrix needs
):
    """Program W adds the norms; the others merge the class that begins with their segment."""
    first = tl.program_id(0)
    if first == number:
        if APPLY:
            sum_before = tl.load(norm_sum)
            before = tl.load(norm_max)
            if ignored is not None:
                ignored_before = tl.load(ignored)
            total, largest = add_norms(totals + number, number, SIZE)
            mend = tl.load(nan_if_invalid)
            tl.debug_barrier()  # all threads have read what one of them writes
            tl.store(norm_sum, sum_before + total + mend)
            # a comparison with NaN is false: NaN wins on either side
            larger = tl.where(
                before >= largest, before, tl.where(before != before, before, largest)
            )
            tl.store(norm_max, larger + mend)
            if ignored is not None:
                tl.store(ignored, ignored_before + tl.load(skipped))
    else:
        added = tl.load(segments + 4 * number + first)
        if added > 0:
            dim = width * ALIGN
            owner = tl.load(segments + 2 * number + first).to(tl.int64)
            stop = first + tl.cdiv(added, LENGTH)
            rows = added.to(tl.float64)
            held = tl.load(counts + owner)
            earlier = held.to(tl.float64)
            share = rows / (earlier + rows)
            spread = tl.zeros([COLS], tl.float64)
            apart = tl.zeros([COLS], tl.float64)
            for start in tl.range(0, dim, COLS):
                cols = start + tl.arange(0, COLS)
                inside = cols < dim
                mean, rest = class_sums(
                    segments + number, partial_mean + first.to(tl.int64) * dim, first, stop, rows,
                    cols, dim, SEGMENTS, COLS,
                )  # fmt: skip
                spread += rest
                place = means + owner * dim + cols
                old = tl.load(place, mask=inside, other=0.0)
                delta = mean - old
                apart += delta * delta
                new = old + delta * share
                if APPLY:
                    tl.debug_barrier()  # other threads may hold the same columns: they have read
                    tl.store(place, new, mask=inside)
                else:
                    half = number.to(tl.int64) * dim
                    spot = first.to(tl.int64) * dim + cols
                    store_centre(centres, half, spot, tl.where(earlier > 0, old, mean), inside)
                    store_centre(centres + 2 * half, half, spot, new, inside)
            squares = tl.sum(spread, 0) + add_in_order(totals, first, stop, SEGMENTS)
            gap = tl.sum(apart, 0)
            if APPLY:
                spread_before = tl.load(within + owner)
                tl.debug_barrier()  # all threads have read what one of them writes
                tl.store(within + owner, spread_before + squares + earlier * share * gap)
                tl.store(counts + owner, held + added)
            else:
                far = tl.sqrt(squares) + tl.where(earlier > 0, tl.sqrt(gap), 0.0)
                tl.store(reach + first, tl.where(far < float("inf"), far, 0.0))  # 0 for NaN, too
        elif not APPLY:
            tl.store(reach + first, 0.0)


def update(
    feats: Tensor,
    rows: PresentSegments,
    state: State,
    config: UpdateConfig,
    *,
    ignored: Tensor | None = None,
    with_scatter: bool = False,
) -> Tensor:
    """Merge a batch into ``state``; no host synchronisation.

    The state is written by the last launch alone: where one before it fails, nothing has changed.

    Args:
        feats: (N, D) of any floating dtype, but not float64 with the scatter matrix.
        rows: the rows of the batch, grouped by class.
        state: written in place.
        config: the launch configurations.
        ignored: () int64; the number of rows that were left out is added to it.
        with_scatter: whether the scatter matrix is wanted.

    Returns:
        What the batch adds to the scatter matrix, (D, D) float64; empty if that is not wanted.
    """
    number = rows.segments.shape[1]
    none = rows.segments[:0]  # no class is merged by the kernels of `ClassMoments` of a whole
    grouped = Grouped(
        rows.permutation, rows.segments, none, number, state.counts, rows.nan_if_invalid
    )
    scratch, _ = allocate(feats, grouped, config.segments)
    with on(feats.device):
        launch_segments(feats, grouped, config.segments, scratch, state.means, state.within_ss)
        gained = scratch.totals[:0]
        if with_scatter:
            gained = _gained(feats, rows, state, scratch, config)
        _launch(feats, rows, state, scratch, config, ignored=ignored)
    return gained


def _gained(
    feats: Tensor, rows: PresentSegments, state: State, scratch: Scratch, config: UpdateConfig
) -> Tensor:
    number = rows.segments.shape[1]
    shape, device = (2, 2, number, feats.shape[1]), feats.device
    centres = torch.empty(shape, dtype=torch.float32, device=device)
    reach = torch.empty(number, dtype=torch.float64, device=device)
    _launch(feats, rows, state, scratch, config, look=(centres, reach))
    return scaled_scatter(feats, rows.leaders, centres, reach.amax(), config.scatter)


def _launch(
    feats: Tensor,
    rows: PresentSegments,
    state: State,
    scratch: Scratch,
    config: UpdateConfig,
    *,
    ignored: Tensor | None = None,
    look: tuple[Tensor, Tensor] | None = None,
) -> None:
    merge, number = config.merge, rows.segments.shape[1]
    apply, align = look is None, alignment(feats.shape[1])
    merge_batch[(number + apply,)](
        rows.segments, *scratch[:2], rows.nan_if_invalid, rows.skipped, state.counts, state.means,
        state.within_ss, state.norm_sum, state.norm_max, ignored, *(look or (None, None)),
        feats.shape[1] // align, number, ALIGN=align, LENGTH=config.segments.segment_rows,
        SEGMENTS=merge.tile_segments, COLS=merge.tile_cols, SIZE=NORMS_SIZE, APPLY=apply,
        num_warps=merge.warps, **OPTIONS,
    )  # fmt: skip
