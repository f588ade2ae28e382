"""Makes the result of a search with rounding errors exact.

The error of a float32 search by norms and products is up to eps (|x|^2 + |y|^2), which exceeds the
distances on collapsed features. The search therefore returns more than k candidates with their
rounded scores, and a bound on the error of its scores. The scores of all other rows are at least
the floor: the largest score of a candidate minus the error. The candidates are scored again in
float64. If the k-th score is below the floor, the k nearest rows are certain. All other rows are
searched again directly.

The search in float32 may be that of another library, and its error is a claim. Four findings refute
the claim: a list that does not name different rows that exist, a score that is farther from the
exact score than claimed, a list that lacks a row which lists it in turn, below its floor, and one
of a few rows that are always searched directly as well. NaN, missing rows and products in TF32 are
found so. Then no list counts, and all rows are searched again directly.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast.information.neighbors import reference
from ncfast.information.neighbors._groups import groups
from ncfast.information.neighbors._types import Metric
from ncfast.ops import _raw

EXTRA = 8  # candidates beyond k: they cost little and resolve near ties
_BLOCK = 1 << 22  # number of differences in memory at a time
EPS = 2.0**-24  # unit roundoff of float32
_SPOTS, _STRIDE = 32, 2654435761  # number of rows searched directly as well; spreads them
_REFUTED = (
    "A search in float32 returned neighbours that contradict its own error bound, so all rows were "
    "searched again by direct differences. The result is exact and came slower. Is "
    "NVIDIA_TF32_OVERRIDE set? Else pass another `backend`."
)


class Candidates(NamedTuple):
    """The m rows of smallest rounded score for each row, which may include the row itself."""

    indices: Tensor  # (N, m) int64
    scores: Tensor  # (N, m) float64, rounded
    error: Tensor  # (N,) float64, bound on the error of the scores of all rows
    sure: bool = False  # whether the list needs no test against the error


class Rounded(NamedTuple):
    """Rows for a search in float32, centred and scaled in float64 before rounding."""

    rows: Tensor  # (N, d) float32
    scale: float  # factor of all distances, a power of two
    error: Tensor  # (N,) float64, bound on the error of scaled squared distances of each row


Search = Callable[[Tensor, int, Metric], Candidates]


def rounded(x: Tensor) -> Rounded:
    """Centred rows in float32, and a bound on the error of their squared distances.

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


def candidates(indices: Tensor, scores: Tensor, near: Rounded) -> Candidates:
    """Candidates from a search among rounded rows, with the scores in the units of the input.

    Args:
        indices: (N, m) int64.
        scores: (N, m) float32, squared distances of ``near.rows``.
        near: what was searched.
    """
    scale = near.scale  # its square may overflow
    return Candidates(indices, scores.double() / scale / scale, near.error / scale / scale)


def knn(
    search: Search, x: Tensor, k: int, metric: Metric, labels: Tensor | None
) -> tuple[Tensor, Tensor, float]:
    """Exact neighbours (within classes) from a search with rounding errors; see `Neighbors`."""
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
    # Candidates are sorted by number, then stably by score, so ties are in order of row number.
    column, order = found.indices.sort(dim=1)
    found = found._replace(indices=column, scores=found.scores.gather(1, order))
    column = column.clamp(0, len(x) - 1)
    score = exact_scores(x, column, metric)
    floor = _floor(found, len(x))
    refuted = None if found.sure else _refuted(found, score, floor)
    score[column == torch.arange(len(x), device=x.device)[:, None]] = torch.inf
    score, order = score.sort(dim=1, stable=True)
    column = column.gather(1, order)[:, :k]
    certain = score[:, k - 1] < floor
    if refuted is not None and bool(refuted | _differs(x, column, certain, metric)):
        warnings.warn(_REFUTED, RuntimeWarning, stacklevel=6)
        certain = torch.zeros_like(certain)
    distances = reference.distance(score[:, :k].contiguous(), metric)
    open_rows = (~certain).nonzero()[:, 0]
    if len(open_rows):
        distances[open_rows], column[open_rows] = nearest_rows(x, open_rows, k, metric)
    return distances, column, len(open_rows)


def _floor(found: Candidates, rows: int) -> Tensor:
    """(N,) lower bound of the exact scores of all rows that are no candidates."""
    worst = found.scores.amax(1)  # NaN if any is
    if found.indices.shape[1] == rows:
        return torch.full_like(worst, torch.inf)  # there are no others
    return worst - found.error


def _refuted(found: Candidates, score: Tensor, floor: Tensor) -> Tensor:
    """A 0-d boolean: whether the lists contradict each other or the error that is claimed.

    Args:
        found: candidates, in order of their number.
        score: (N, m) float64, their exact scores.
        floor: (N,) float64, what the scores of all other rows are at least.
    """
    column, number = found.indices, len(floor)
    listed = (column[:, 0] >= 0) & (column[:, -1] < number) & (column.diff(dim=1) > 0).all(1)
    near = (found.scores - score).abs() <= found.error[:, None]
    column = column.clamp(0, number - 1)
    rows = torch.arange(number, device=column.device)[:, None]
    pairs = (rows * number + column).view(-1)  # ascending
    turned = column * number + rows
    at = torch.searchsorted(pairs, turned).clamp(max=pairs.numel() - 1)
    mutual = (pairs[at] == turned) | ~(score < floor[column])
    return ~(listed.all() & near.all() & mutual.all())


def _differs(x: Tensor, column: Tensor, certain: Tensor, metric: Metric) -> Tensor:
    """A 0-d boolean: whether direct differences find other neighbours of a few certain rows."""
    some = torch.arange(min(len(x), _SPOTS), device=x.device) * _STRIDE % len(x)
    _, direct = nearest_rows(x, some, column.shape[1], metric)
    return (certain[some] & (column[some] != direct).any(1)).any()


def exact_scores(x: Tensor, indices: Tensor, metric: Metric) -> Tensor:
    """(N, m) float64 scores between each row and the rows in its row of ``indices``."""
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
    """Distances and indices of the k nearest rows of some rows, by direct differences."""
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
