"""Pairs features of tokens with labels of later tokens, and pools tokens without padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ncfast.tracking.layers import PRESETS, tensor_of


def next_tokens(labels: Tensor, mask: Tensor | None, shift: int) -> tuple[Tensor, Tensor | None]:
    """Labels and mask of the features [:, :-shift], each paired with the label ``shift`` later.

    A pair counts where the mask holds for both of its tokens.

    Raises:
        ValueError: the labels are not (B, T) with T > shift.
    """
    if labels.ndim != 2 or labels.shape[1] <= shift:
        raise ValueError(
            f"Expected labels of shape (B, T) with T > {shift} for shift={shift} but got "
            f"{tuple(labels.shape)}. Pass shift=0 for one label per sequence."
        )
    if mask is not None:
        mask = mask[:, :-shift] & mask[:, shift:]
    return labels[:, shift:], mask


def real_tokens(feats: Tensor, mask: Tensor | None, shift: int) -> Tensor:
    """The features (M, D) that count among those of tokens (B, T, D); (N, D) is left unchanged.

    Args:
        feats: features.
        mask: (B, T) bool; a mask of another shape says nothing of these tokens.
        shift: see `next_tokens`.
    """
    if feats.ndim < 3:
        return feats
    fits = mask is not None and mask.shape == feats.shape[:2]
    kept = mask if fits and mask is not None else feats.new_ones(feats.shape[:2]).bool()
    if shift:
        feats, kept = feats[:, :-shift], kept[:, :-shift] & kept[:, shift:]
    return feats[kept.to(feats.device)].flatten(0, -2)


class MaskedPool:
    """Pooling that leaves out the padding of the batch at hand.

    Args:
        how: "last" or "gap".

    Attributes:
        mask: (B, T) bool of the batch; None where nothing is padded.
    """

    def __init__(self, how: str) -> None:
        self._how = how
        self.mask: Tensor | None = None

    def __call__(self, output: Any) -> Tensor:
        """Features (B, D) of tokens (B, T, D); of anything else what the preset makes of it."""
        tensor, mask = tensor_of(output), self.mask
        if mask is None or tensor.ndim != 3 or mask.shape != tensor.shape[:2]:
            return PRESETS[self._how](output)
        mask = mask.to(tensor.device)
        if self._how == "gap":
            kept = torch.where(mask.unsqueeze(2), tensor, 0)
            wide = torch.promote_types(tensor.dtype, torch.float32)
            return kept.sum(1, dtype=wide) / mask.sum(1, keepdim=True).clamp(min=1)
        position = torch.arange(mask.shape[1], device=mask.device)
        last = torch.where(mask, position, 0).amax(1)
        return tensor[torch.arange(len(tensor), device=tensor.device), last]
