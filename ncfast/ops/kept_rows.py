"""Which rows of a batch count, after a mask and `ignore_index`, and the classes among them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ncfast.ops import _raw


class Kept(NamedTuple):
    """The rows of a batch that count, and the numbers of their classes within the batch."""

    feats: Tensor  # (N, D); zero in the rows that do not count
    slots: Tensor  # (N,) int64: the class of a row, as a position in `classes`
    classes: Tensor  # (S,) int64 label of each slot; K for slots that hold nothing that counts
    skipped: Tensor  # () int64: rows left out by the mask or `ignore_index`
    nan_if_invalid: Tensor  # () float64: NaN when a label that counts is out of range, else 0


def keep(
    feats: Tensor, labels: Tensor, num_classes: int, mask: Tensor | None, ignore_index: int | None
) -> Kept:
    """Which rows count, and the classes among them in ascending order."""
    keys, skipped, outside = checked_keys(labels, num_classes, mask, ignore_index)
    ordered, order = keys.sort(stable=True)
    first = torch.ones_like(ordered)
    first[1:] = (ordered[1:] != ordered[:-1]).to(torch.int64)
    slot = first.cumsum(0) - 1
    size = min(len(keys), num_classes + 1)
    classes = torch.full((size,), num_classes, device=keys.device).scatter_(0, slot, ordered)
    return Kept(
        torch.where((keys < num_classes).unsqueeze(1), feats, 0),
        torch.empty_like(slot).scatter_(0, order, slot),
        classes,
        skipped,
        nan_if(outside),
    )


def checked_keys(
    labels: Tensor, num_classes: int, mask: Tensor | None, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The class of each row, K where it does not count; rows left out; which labels are invalid.

    Raises:
        ValueError: on the CPU, unless something traces, a label is invalid.
    """
    keys, skipped, outside = keys_of(labels, num_classes, mask, ignore_index)
    if labels.is_cpu and not _raw.traced(labels, outside) and outside.any():
        raise out_of_range(labels, int(outside.to(torch.int8).argmax()), num_classes)
    return keys, skipped, outside


def keys_of(
    labels: Tensor, num_classes: int, mask: Tensor | None, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`checked_keys` without the check."""
    wide = _raw.as_int64(labels)
    wanted = torch.ones_like(wide, dtype=torch.bool) if mask is None else mask.to(torch.bool)
    if ignore_index is not None:
        wanted = wanted & (wide != ignore_index)
    inside = (wide >= 0) & (wide < num_classes)
    return torch.where(wanted & inside, wide, num_classes), (~wanted).sum(), wanted & ~inside


def nan_if(outside: Tensor) -> Tensor:
    """NaN if any entry is True, else zero, () float64."""
    return torch.where(outside.any(), torch.nan, 0.0).to(torch.float64)


def out_of_range(labels: Tensor, row: int, num_classes: int) -> ValueError:
    """The error for the label of a row that is not left out."""
    return ValueError(
        f"Expected argument `labels` to lie in 0..{num_classes - 1} but row {row} holds "
        f"{labels[row].item()}. Leave such rows out by `mask` or `ignore_index`, or relabel them."
    )
