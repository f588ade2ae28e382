"""Pairs features of tokens with labels of later tokens, and leaves out padding."""

from __future__ import annotations

from torch import Tensor


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
    """The features (M, D) of the tokens that count, from (B, T, D); (N, D) is returned unchanged.

    Args:
        feats: features.
        mask: (B, T) bool; a mask of another shape is ignored.
        shift: see `next_tokens`.
    """
    if feats.ndim < 3:
        return feats
    fits = mask is not None and mask.shape == feats.shape[:2]
    kept = mask if fits and mask is not None else feats.new_ones(feats.shape[:2]).bool()
    if shift:
        feats, kept = feats[:, :-shift], kept[:, :-shift] & kept[:, shift:]
    return feats[kept.to(feats.device)].flatten(0, -2)
