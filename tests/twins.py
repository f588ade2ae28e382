"""Oracles of the kernels, in torch and float64; the tests compare the kernels with them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class SegmentMoments(NamedTuple):
    """Results of the segments kernel, one per segment; one without an owner has zeros."""

    mean: Tensor  # (W, D)
    ss: Tensor  # (W,) sum of squares around the segment's own mean
    norm_sum: Tensor  # (W,)
    norm_max: Tensor  # (W,)


def segments(feats: Tensor, permutation: Tensor, table: Tensor) -> SegmentMoments:
    """Oracle of `kernels.segments.moments_of_segments`; ``table`` as in `SegmentTable.segments`."""
    results = []
    for start, length, owner, _ in table.T.tolist():
        rows = permutation[start : start + length].long()
        x = feats[rows].double()
        if owner < 0 or length == 0:
            results.append((torch.zeros(feats.shape[1]).double(), *torch.zeros(3).double()))
            continue
        mean = x.mean(0)
        norms = torch.linalg.vector_norm(x, dim=1)
        results.append((mean, (x - mean).square().sum(), norms.sum(), norms.amax()))
    return SegmentMoments(*(torch.stack(column) for column in zip(*results, strict=True)))


def merge(
    table: Tensor, shared: Tensor, segment_means: Tensor, segment_ss: Tensor
) -> tuple[Tensor, Tensor]:
    """Oracle of `ncfast.kernels.merge.merge_segments`: means (M, D) and sums of squares (M,)."""
    means, spreads = [], []
    for _, first, number, _ in shared.T.tolist():
        part = slice(first, first + number)
        length = table[1, part].double()
        mean = (segment_means[part] * length[:, None]).sum(0) / length.sum()
        between = (segment_means[part] - mean).square().sum(1) @ length
        means.append(mean)
        spreads.append(segment_ss[part].sum() + between)
    return torch.stack(means), torch.stack(spreads)


def project(feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor) -> Tensor:
    """Oracle of `ncfast.kernels.projection.projected_squares`: (V,) sums over all rows."""
    return ((feats.double() - means[labels.long()]) @ vectors.double().T).square().sum(0)


def scatter(feats: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """Oracle of `ncfast.kernels.scatter.scatter_tiles`: (D, D), assembled from all tiles."""
    away = feats.double() - means[labels.long()]
    return away.T @ away


def decide(feats: Tensor, centre: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    """Oracle of the kernels in `ncfast.kernels.decisions`, for one rule: (N,) int64."""
    scores = (feats.double() - centre) @ weight.T + offset
    return scores.nan_to_num(-torch.inf, torch.inf, -torch.inf).argmax(1)


def block_scores(points: Tensor, starts: Sequence[int], euclidean: bool) -> Tensor:
    """(BLOCKS, N, N) scores of ``points`` (D, N) in each block of columns; diagonal infinite."""
    scores = []
    for low, high in itertools.pairwise(starts):
        total = points.new_zeros(points.shape[1], points.shape[1])
        for line in points[low:high]:
            gap = line[:, None] - line[None, :]
            total = total + gap * gap if euclidean else torch.maximum(total, gap.abs())
        scores.append(total.fill_diagonal_(torch.inf))
    return torch.stack(scores)


def nearest(
    points: Tensor, starts: Sequence[int], begins: Tensor, ends: Tensor, k: int, euclidean: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Oracle of `ncfast.kernels.neighbors.nearest`, one layer: scores, indices, extents."""
    each = block_scores(points, starts, euclidean)
    row = torch.arange(points.shape[1])
    outside = (row < begins[:, None]) | (row >= ends[:, None])
    whole = each.amax(0).masked_fill_(outside, torch.inf)
    scores, indices = (t[:, :k] for t in whole.sort(dim=1, stable=True))
    reach = each.gather(2, indices.expand(len(each), -1, -1))
    missing = scores.isinf()
    reach = reach.masked_fill(missing, torch.inf).amax(2)
    return scores, indices.masked_fill(missing, -1), reach


def count_nearer(
    points: Tensor, starts: Sequence[int], begins: Tensor, ends: Tensor, limits: Tensor,
    euclidean: bool,
) -> Tensor:  # fmt: skip
    """Oracle of `ncfast.kernels.neighbors.count_nearer`, for one layer: (BLOCKS + 1, N)."""
    each = block_scores(points, starts, euclidean)
    row = torch.arange(points.shape[1])
    inside = (row >= begins[:, None]) & (row < ends[:, None])
    every = torch.cat((each, each.amax(0, keepdim=True)))
    return ((every < limits[:, :, None]) & inside).sum(2)
