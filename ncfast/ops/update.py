"""Update of class moments in place: a batch is merged into the rows of the classes that it holds.

The reference gives the classes of the batch numbers of their own, takes the moments of the batch by
these numbers, and merges them (Chan, Golub & LeVeque 1983) into the rows of the state. Its cost and
its memory do not grow with the number of classes of the state.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ncfast.ops import moments as class_moments
from ncfast.ops._registry import Operation
from ncfast.ops.blocks import add_by_class, residuals
from ncfast.ops.summary import Moments


class Kept(NamedTuple):
    """The rows of a batch that count, and the numbers of their classes within the batch."""

    feats: Tensor  # (N, D); zero in the rows that do not count
    slots: Tensor  # (N,) int64: the class of a row, as a position in `classes`
    classes: Tensor  # (S,) int64 label of each slot; K for slots that hold nothing that counts
    skipped: Tensor  # () int64: rows left out by the mask or `ignore_index`
    nan_if_invalid: Tensor  # () float64: NaN when a label that counts is out of range, else 0


def reference(
    feats: Tensor,
    labels: Tensor,
    state: Moments,
    *,
    mask: Tensor | None = None,
    ignore_index: int | None = None,
    ignored: Tensor | None = None,
    scatter: Tensor | None = None,
) -> None:
    """Merge a batch into ``state``, in place; no host synchronisation.

    Args:
        feats: (N, D) in any floating dtype.
        labels: (N,) integers. One outside 0..K-1 that is not left out makes the norms NaN.
        state: class moments of K classes and D columns, contiguous. The rows of classes that are
            not in the batch are not touched.
        mask: (N,) bool; rows where it is False are left out, whatever they hold.
        ignore_index: rows with this label are left out; None leaves out none.
        ignored: () int64; the number of rows that were left out is added to it.
        scatter: (D, D) float64 of the rows so far around their class means. The sum of the outer
            products of the batch is merged into it, so that it is N Sigma_W of all rows.
    """
    kept = keep(feats, labels, state.counts.shape[0], mask, ignore_index)
    raw = class_moments.reference(kept.feats, kept.slots, len(kept.classes))
    counts_here = kept.classes < state.counts.shape[0]
    rows = kept.classes.clamp(max=state.counts.shape[0] - 1)
    before = state.counts.index_select(0, rows).to(torch.float64)
    added = torch.where(counts_here, raw.counts, 0)
    share = added / (before + added).clamp(min=1)
    delta = raw.means - state.means.index_select(0, rows)
    delta = torch.where((added > 0).unsqueeze(1), delta, 0.0)
    between = before * share
    squares = torch.linalg.vector_norm(delta, dim=1).square() * between
    if scatter is not None:
        _add_scatter(scatter, kept, raw.means, delta, between)
    add_by_class(state.means, rows, delta * share.unsqueeze(1))
    add_by_class(state.within_ss, rows, torch.where(counts_here, raw.within_ss, 0.0) + squares)
    state.counts.index_add_(0, rows, added)
    state.norm_sum.add_(raw.norm_sum + kept.nan_if_invalid)
    state.norm_max.copy_(torch.maximum(state.norm_max, raw.norm_max + kept.nan_if_invalid))
    if ignored is not None:
        ignored.add_(kept.skipped)


def keep(
    feats: Tensor, labels: Tensor, num_classes: int, mask: Tensor | None, ignore_index: int | None
) -> Kept:
    """Which rows count, and the classes among them in ascending order."""
    wide = labels.to(torch.int64)
    wanted = torch.ones_like(wide, dtype=torch.bool) if mask is None else mask.to(torch.bool)
    if ignore_index is not None:
        wanted = wanted & (wide != ignore_index)
    inside = (wide >= 0) & (wide < num_classes)
    invalid = (wanted & ~inside).any()
    ordered, order = torch.where(wanted & inside, wide, num_classes).sort(stable=True)
    first = torch.ones_like(ordered)
    first[1:] = (ordered[1:] != ordered[:-1]).to(torch.int64)
    slot = first.cumsum(0) - 1
    size = min(len(wide), num_classes + 1)
    classes = torch.full((size,), num_classes, device=wide.device).scatter_(0, slot, ordered)
    return Kept(
        torch.where((wanted & inside).unsqueeze(1), feats, 0),
        torch.empty_like(slot).scatter_(0, order, slot),
        classes,
        (~wanted).sum(),
        torch.where(invalid, torch.nan, 0.0).to(torch.float64),
    )


def _add_scatter(
    scatter: Tensor, kept: Kept, means: Tensor, delta: Tensor, between: Tensor
) -> None:
    for residual, _ in residuals(kept.feats, kept.slots, means):
        scatter.addmm_(residual.T, residual)
    scaled = delta * between.sqrt().unsqueeze(1)
    scatter.addmm_(scaled.T, scaled)


UPDATE = Operation("the update of class moments", reference)
