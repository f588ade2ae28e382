"""Batches as rows: one feature vector, one label and one entry of the mask for each."""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast._arrays import Array, as_tensor
from ncfast.ops.grouping import LabelPlan


def as_rows(
    feats: Array, labels: Array | LabelPlan, mask: Array | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features (N, D), labels (N,) and a mask (N,) bool, of tensors or arrays.

    Args:
        feats: (N, D), or (B, T, D) and more axes.
        labels: (N,) or a `plan`; (B, T) beside (B, T, D).
        mask: of the labels' shape, bool or integer; None keeps every row.

    Raises:
        TypeError: a mask that is neither bool nor integer.
        ValueError: a mask of another shape than the labels.
    """
    feats = as_tensor("feats", feats).detach()
    labels = labels.labels if isinstance(labels, LabelPlan) else as_tensor("labels", labels)
    kept = None if mask is None else _as_mask(as_tensor("mask", mask), labels)
    if feats.ndim > 2 and feats.shape[:-1] == labels.shape:
        feats, labels = feats.flatten(0, -2), labels.flatten()
        kept = None if kept is None else kept.flatten()
    return feats, labels, kept


def as_outside_rows(feats: Array) -> tuple[Tensor, Tensor]:
    """Features (M, D), of tensors or arrays with more axes too; and (M,) labels of one class."""
    feats = as_tensor("feats", feats).detach()
    feats = feats.flatten(0, -2) if feats.ndim > 2 else feats
    return feats, torch.zeros(feats.shape[:1], dtype=torch.int64, device=feats.device)


def _as_mask(mask: Tensor, labels: Tensor) -> Tensor:
    if mask.is_floating_point() or mask.is_complex():
        raise TypeError(
            f"Expected argument `mask` to be bool, or integer as an attention mask is, but got "
            f"{mask.dtype}. Use mask.bool()."
        )
    if mask.shape != labels.shape:
        raise ValueError(
            f"Expected argument `mask` to have the shape of the labels, {tuple(labels.shape)}, but "
            f"got {tuple(mask.shape)}."
        )
    return mask.to(torch.bool)
