"""The reference search: float64 brute force in blocks of rows. All engines return the same bits.

A score is a squared Euclidean distance, summed over the columns in order, or a maximum of absolute
differences. Products are rounded before they are added. Neighbours are ordered by (score, row
number). Radii are distances: rounded square roots of scores. Counts compare distances.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ncfast.information.neighbors._groups import groups
from ncfast.information.neighbors._types import Metric

_BLOCK = 1 << 22  # number of scores in memory at a time: 32 MB


def scores(queries: Tensor, points: Tensor, metric: Metric) -> Tensor:
    """(Q, N) float64 scores between two sets of float64 rows."""
    total = queries.new_zeros((len(queries), len(points)))
    for column in range(queries.shape[1]):
        gap = queries[:, column, None] - points[None, :, column]
        if metric == "l2":
            total += gap.mul_(gap)
        else:
            torch.maximum(total, gap.abs_(), out=total)
    return total


def distance(score: Tensor, metric: Metric) -> Tensor:
    """The distance of a score, with the rounding of IEEE 754."""
    if metric == "linf":
        return score
    # On a CPU torch uses MKL, whose square root may differ in the last place.
    return torch.from_numpy(np.sqrt(score.numpy())) if score.device.type == "cpu" else score.sqrt()


def smallest(score: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest entries of each row and their columns, by (value, column)."""
    kth = score.topk(k, largest=False).values[:, -1:]
    below, equal = score < kth, score == kth
    room = k - below.sum(1, keepdim=True)
    taken = below | (equal & (equal.cumsum(1) <= room))
    columns = taken.nonzero()[:, 1].view(len(score), k)
    values, order = score.gather(1, columns).sort(dim=1, stable=True)
    return values, columns.gather(1, order)


def _row_blocks(number: int) -> Iterator[Tensor]:
    yield from torch.arange(number, device="cpu").split(max(1, _BLOCK // number))


def _block_scores(blocks: Sequence[Tensor], rows: Tensor, metric: Metric) -> list[Tensor]:
    each = [scores(block[rows], block, metric) for block in blocks]
    for score in each:
        score[torch.arange(len(rows), device="cpu"), rows] = (
            torch.inf
        )  # no row is its own neighbour
    return each


def knn(x: Tensor, k: int, metric: Metric, labels: Tensor | None) -> tuple[Tensor, Tensor, float]:
    """Distances and indices of the k nearest rows (of the same class); see `Neighbors`."""
    distances = x.new_full((len(x), k), torch.inf, dtype=torch.float64)
    indices = torch.full((len(x), k), -1, device=x.device)
    for members in groups(labels, x):
        wide = x[members].double()
        found = min(k, len(members) - 1)
        for rows in _row_blocks(len(members)) if found else ():
            score, column = smallest(_block_scores([wide], rows, metric)[0], found)
            here = members[rows]
            distances[here, :found] = distance(score, metric)
            indices[here, :found] = members[column]
    return distances, indices, 1.0


def joint(
    blocks: Sequence[Tensor], k: int, metric: Metric, rectangle: bool, labels: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
    """Joint radii, counts, extents and ties; see `JointNeighbors`."""
    first = blocks[0]
    radii = first.new_full((len(first),), torch.inf, dtype=torch.float64)
    extents = tuple(radii.clone() for _ in blocks)
    counts = tuple(torch.zeros_like(radii, dtype=torch.int64) for _ in blocks)
    ties = counts[0].clone()
    for members in groups(labels, first):
        wide = [block[members].double() for block in blocks]
        for rows in _row_blocks(len(members)):
            each = _block_scores(wide, rows, metric)
            here = members[rows]
            if len(members) > k:
                _nearest(each, k, metric, here, radii, extents)
            together = torch.stack([distance(score, metric) for score in each]).amax(0)
            ties[here] = within(together, radii[here], strict=False)
            for block, score in enumerate(each):
                reach = extents[block] if rectangle else radii
                near = distance(score, metric)
                counts[block][here] = within(near, reach[here], strict=not rectangle)
    return radii, counts, extents, ties


def _nearest(
    each: list[Tensor], k: int, metric: Metric, here: Tensor, radii: Tensor,
    extents: tuple[Tensor, ...],
) -> None:  # fmt: skip
    score, column = smallest(torch.stack(each).amax(0), k)
    radii[here] = distance(score[:, -1], metric)
    for block, extent in zip(each, extents, strict=True):
        extent[here] = distance(block.gather(1, column).amax(1), metric)


def within(near: Tensor, reach: Tensor, *, strict: bool) -> Tensor:
    """(Q,) how many of the distances (Q, N) are finite and within reach (Q,)."""
    reach = reach.unsqueeze(1)
    inside = near < reach if strict else near <= reach
    # The row itself has infinite distance and must not be counted if the reach is infinite.
    return (inside & near.isfinite()).sum(1)


def count(x: Tensor, radii: Tensor, metric: Metric, strict: bool, labels: Tensor | None) -> Tensor:
    """Number of other rows (of the same class) nearer than ``radii``, or at most as far."""
    counts = torch.zeros_like(radii, dtype=torch.int64)
    for members in groups(labels, x):
        wide = x[members].double()
        for rows in _row_blocks(len(members)):
            near = distance(_block_scores([wide], rows, metric)[0], metric)
            here = members[rows]
            counts[here] = within(near, radii[here], strict=strict)
    return counts
