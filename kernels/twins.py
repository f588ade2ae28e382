"""What each kernel computes, in plain torch and float64, for the tests to compare with."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ItemMoments(NamedTuple):
    """The results of the items kernel, one entry for each item that has an owner."""

    mean: Tensor  # (W, D), relative to the class's first row
    ss: Tensor  # (W,) sum of squares around the item's own mean
    norm_sum: Tensor  # (W,)
    norm_max: Tensor  # (W,)


def items(feats: Tensor, permutation: Tensor, table: Tensor) -> ItemMoments:
    """Twin of `ncfast.kernels.items.moments_of_items`; ``table`` as in `ItemTable.items`."""
    results = []
    for start, length, owner, pivot, _ in table.T.tolist():
        rows = permutation[start : start + length].long()
        x = feats[rows].double()
        if owner < 0 or length == 0:
            results.append((torch.zeros(feats.shape[1]).double(), *torch.zeros(3).double()))
            continue
        away = x - feats[pivot].double()
        mean = away.mean(0)
        norms = torch.linalg.vector_norm(x, dim=1)
        results.append((mean, (away - mean).square().sum(), norms.sum(), norms.amax()))
    return ItemMoments(*(torch.stack(column) for column in zip(*results, strict=True)))


def merge(
    feats: Tensor, table: Tensor, shared: Tensor, item_means: Tensor, item_ss: Tensor
) -> tuple[Tensor, Tensor]:
    """Twin of `ncfast.kernels.merge.merge_items`: means (M, D) and sums of squares (M,)."""
    means, spreads = [], []
    for _, first, number, _ in shared.T.tolist():
        part = slice(first, first + number)
        length = table[1, part].double()
        mean = (item_means[part] * length[:, None]).sum(0) / length.sum()
        between = (item_means[part] - mean).square().sum(1) @ length
        means.append(feats[table[3, first]].double() + mean)
        spreads.append(item_ss[part].sum() + between)
    return torch.stack(means), torch.stack(spreads)


def project(feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor) -> Tensor:
    """Twin of `ncfast.kernels.project.projected_squares`: (V,) sums over all rows."""
    return ((feats.double() - means[labels.long()]) @ vectors.double().T).square().sum(0)


def scatter(feats: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """Twin of `ncfast.kernels.scatter.scatter_tiles`: (D, D), all tiles put together."""
    away = feats.double() - means[labels.long()]
    return away.T @ away


def decide(feats: Tensor, centre: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    """Twin of the kernels in `ncfast.kernels.decide`, for one rule: (N,) int64."""
    scores = (feats.double() - centre) @ weight.T + offset
    return scores.nan_to_num(-torch.inf, torch.inf, -torch.inf).argmax(1)
