"""Candidates from a rounded search, made exact: scores again in float64, a certificate, a fallback.

A search in float32 by norms and products is off by up to eps (|x|^2 + |y|^2), which is everything
on collapsed features. It returns more candidates than wanted, and a floor: no row outside the list
has a smaller score. The exact scores of the candidates then decide a row for good where the k-th of
them lies below the floor; the other rows are searched directly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast.information.neighbors import reference
from ncfast.information.neighbors._groups import groups
from ncfast.information.neighbors._types import Metric
from ncfast.ops import _raw

EXTRA = 8  # candidates beyond k: costs little, and settles near ties
_BLOCK = 1 << 22  # differences in memory at a time
EPS = 2.0**-24  # of float32


class Candidates(NamedTuple):
    """What a rounded search found; a row may be among its own candidates."""

    indices: Tensor  # (N, m) int64, no row twice
    floor: Tensor  # (N,) float64, no other row has a smaller score


class Rounded(NamedTuple):
    """Rows for a search in float32: centred and scaled in float64 before they are rounded."""

    rows: Tensor  # (N, d) float32
    scale: float  # of distances, a power of two
    error: Tensor  # (N,) float64, bound on the error of a scaled squared distance of each row


Search = Callable[[Tensor, int, Metric], Candidates]


def rounded(x: Tensor) -> Rounded:
    """Rows of float64, relative to their mean, with the bound of trap T1.

    A squared distance |x|^2 + |y|^2 - 2 x y in float32 is off by at most
    2 (d + 3) eps (|x|^2 + |y|^2); rounding the rows adds at most 4 eps (|x|^2 + |y|^2).
    """
    centred = x - x.mean(0)
    largest = float(centred.abs().amax())
    exponent = math.ceil(math.log2(largest)) if largest > 0 else 0
    scale = 2.0 ** -min(max(exponent, -900), 900)
    rows = (centred * scale).float()
    norms = rows.double().square().sum(1)
    return Rounded(rows, scale, 2.02 * (x.shape[1] + 6) * EPS * (norms + norms.amax()))


def floor(worst: Tensor, near: Rounded, number: int) -> Tensor:
    """What the exact scores outside a list cannot undercut, from the list's worst rounded score."""
    if number == len(near.rows):
        return torch.full_like(near.error, torch.inf)
    return (worst.double() - near.error) / near.scale / near.scale  # its square may overflow


def knn(
    search: Search, x: Tensor, k: int, metric: Metric, labels: Tensor | None
) -> tuple[Tensor, Tensor, float]:
    """Exact neighbours (within classes) by a rounded search; see `Neighbors`."""
    distances = x.new_full((len(x), k), torch.inf, dtype=torch.float64)
    indices = torch.full((len(x), k), -1, device=x.device)
    second = 0
    for members in groups(labels, x):
        found = min(k, len(members) - 1)
        if found:
            wide = x[members].double().contiguous()
            near, column, again = _within(search, wide, found, metric)
            distances[members, :found] = near
            indices[members, :found] = members[column]
            second += again
    return distances, indices, 1 - second / len(x)


def _within(search: Search, x: Tensor, k: int, metric: Metric) -> tuple[Tensor, Tensor, int]:
    found = search(x, min(k + 1 + EXTRA, len(x)), metric)
    score = exact_scores(x, found.indices, metric)
    score[found.indices == torch.arange(len(x), device=x.device)[:, None]] = torch.inf
    # a stable sort by score of what is sorted by number: of equal scores the lower number first
    column, by_number = found.indices.sort(dim=1)
    score, order = score.gather(1, by_number).sort(dim=1, stable=True)
    column = column.gather(1, order)[:, :k]
    distances = reference.distance(score[:, :k].contiguous(), metric)
    open_rows = (~(score[:, k - 1] < found.floor)).nonzero()[:, 0]
    if len(open_rows):
        distances[open_rows], column[open_rows] = nearest_rows(x, open_rows, k, metric)
    return distances, column, len(open_rows)


def exact_scores(x: Tensor, indices: Tensor, metric: Metric) -> Tensor:
    """(N, m) float64 scores between each row and the rows named for it."""
    if _raw.extension is not None and x.device.type == "cpu":
        score = x.new_empty(indices.shape, dtype=torch.float64)
        indices = indices.contiguous()
        _raw.extension.knn_scores(
            x.data_ptr(), *x.shape, metric == "linf", indices.data_ptr(), indices.shape[1],
            score.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return score
    score = torch.zeros(indices.shape, dtype=torch.float64, device=x.device)
    for column in range(x.shape[1]):
        values = x[:, column].contiguous()
        gap = values[indices].sub_(values[:, None])
        if metric == "l2":
            score += gap.mul_(gap)
        else:
            torch.maximum(score, gap.abs_(), out=score)
    return score


def nearest_rows(x: Tensor, rows: Tensor, k: int, metric: Metric) -> tuple[Tensor, Tensor]:
    """Distances and indices of the k nearest of some rows, directly."""
    if _raw.extension is not None and x.device.type == "cpu":
        distances = x.new_empty((len(rows), k), dtype=torch.float64)
        ids = x.new_empty((len(rows), k), dtype=torch.int64)
        _raw.extension.knn_of_rows(
            x.data_ptr(), *x.shape, metric == "linf", k, rows.data_ptr(), len(rows),
            distances.data_ptr(), ids.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return distances, ids
    parts = [_slow_rows(x, part, k, metric) for part in rows.split(max(1, _BLOCK // len(x)))]
    score, ids = (torch.cat(each) for each in zip(*parts, strict=True))
    return reference.distance(score, metric), ids


def _slow_rows(x: Tensor, rows: Tensor, k: int, metric: Metric) -> tuple[Tensor, Tensor]:
    score = reference.scores(x[rows], x, metric)
    score[torch.arange(len(rows), device=x.device), rows] = torch.inf
    return reference.smallest(score, k)
