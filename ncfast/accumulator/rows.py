"""Flattens a batch to rows, each with a feature vector, a label and an entry of the mask."""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast._arrays import Array, as_tensor
from ncfast._validate import with_float64
from ncfast.ops.grouping import LabelPlan


def as_rows(
    feats: Array, labels: Array | LabelPlan, mask: Array | None, device: torch.device | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features (N, D), labels (N,) and a mask (N,) bool, of tensors or arrays.

    Args:
        feats: (N, D), or (B, T, D) and more axes.
        labels: (N,) or a `plan`; (B, T) for features (B, T, D).
        mask: of the labels' shape, bool or integer; None keeps every row.
        device: where all three go; None is the device of the features, or the CPU if that has no
            float64.

    Raises:
        TypeError: a mask that is neither bool nor integer.
        ValueError: a mask of another shape than the labels; more axes than the labels fit.
    """
    feats = as_tensor("feats", feats).detach()
    labels = labels.labels if isinstance(labels, LabelPlan) else as_tensor("labels", labels)
    kept = None if mask is None else _as_mask(as_tensor("mask", mask), labels)
    if feats.ndim > 2:
        if labels.shape != feats.shape[:-1]:
            raise ValueError(
                f"Expected argument `labels` of shape {tuple(feats.shape[:-1])}, one for each "
                f"vector of `feats` {tuple(feats.shape)}, but got {tuple(labels.shape)}. Pass a "
                "label for every token, or one vector a label: feats.mean(1) or feats.flatten(1)."
            )
        feats, labels = feats.flatten(0, -2), labels.flatten()
        kept = None if kept is None else kept.flatten()
    device = with_float64(feats.device) if device is None else device
    return feats.to(device), labels.to(device), None if kept is None else kept.to(device)


def as_outside_rows(feats: Array, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Features (M, D) of a tensor or array with two axes or more, and (M,) labels of one class."""
    feats = as_tensor("feats", feats).detach()
    feats = feats.flatten(0, -2) if feats.ndim > 2 else feats
    feats = feats.to(with_float64(feats.device) if device is None else device)
    return feats, torch.zeros(feats.shape[:1], dtype=torch.int64, device=feats.device)


def _as_mask(mask: Tensor, labels: Tensor) -> Tensor:
    if mask.is_floating_point() or mask.is_complex():
        raise TypeError(
            f"Expected argument `mask` to be bool, or integer as an attention mask is, but got "
            f"{mask.dtype}. Use mask.bool()."
        )
    if mask.shape != labels.shape:
        raise ValueError(
            f"Expected argument `mask` to have the shape of `labels`, {tuple(labels.shape)}, but "
            f"got {tuple(mask.shape)}."
        )
    return mask.to(torch.bool)
