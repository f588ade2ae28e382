"""Sums of rows by class: in the same order on every run, and not one addition after another.

Rows sorted by class form one run for each class. Runs are cut into pieces of at most 64 rows, whose
sums a device computes side by side. The sums of a run's pieces are runs again, and shorter ones.
Atomic additions would take another order on every run; `index_put_` keeps to one order on CUDA, and
adds the rows of a class one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_PIECE = 64


class Runs(NamedTuple):
    """Rows sorted by class."""

    order: Tensor  # (N,) int64: rows in the order of their classes; stable
    labels: Tensor  # (N,) int64: the class of each of them
    counts: Tensor  # (K,) int64: rows of each class
    begins: Tensor  # (K,) int64: where each class begins in `order`


def sort_by_class(labels: Tensor, num_classes: int) -> Runs:
    """The runs of ``labels`` (N,) int64 in 0..K-1; no host synchronisation."""
    ordered, order = torch.sort(labels, stable=True)
    classes = torch.arange(num_classes, device=labels.device)
    begins = torch.searchsorted(ordered, classes)
    counts = torch.searchsorted(ordered, classes, right=True) - begins
    return Runs(order, ordered, counts, begins)


def sums_by_class(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Sums (K, C) of the rows of ``values`` (N, C) by ``labels`` (N,) int64 in 0..K-1."""
    runs = sort_by_class(labels, num_classes)
    return sum_runs(values, runs.order, runs.begins)


def sum_runs(values: Tensor, order: Tensor | None, begins: Tensor) -> Tensor:
    """Sums (K, C) of the rows of ``values`` in each run of ``order``.

    Args:
        values: (N, C) float64.
        order: (M,) int64, rows of ``values``; None takes all of them as they are.
        begins: (K,) int64, ascending from 0; a run ends where the next begins, the last at M.
    """
    if order is None:
        order = torch.arange(len(values), device=values.device)
    most = _PIECE
    while len(order) > most:
        starts, most = _starts(len(order), begins), 2 * max(_PIECE, len(begins))
        values = F.embedding_bag(order, values, starts, mode="sum")
        order = torch.arange(len(starts), device=order.device)
        begins = torch.searchsorted(starts, begins)
    return F.embedding_bag(order, values, begins, mode="sum")


def _starts(number: int, begins: Tensor) -> Tensor:
    """Where pieces of 0..number-1 start: at multiples of 64, and where a run begins. Ascending."""
    regular = torch.arange(0, number, _PIECE, device=begins.device)
    return torch.sort(torch.cat((regular, begins))).values


class Pieces:
    """Sums of sorted rows by class, from values that come block by block.

    The values of one block are held at a time, and a sum for each piece.

    Args:
        runs: the sorted rows.
        rows: most rows of a block.
        dim: columns of the values.
    """

    def __init__(self, runs: Runs, rows: int, dim: int) -> None:
        self._runs, count, device = runs, len(runs.order), runs.order.device
        self._rows = rows = max(1, rows // _PIECE) * _PIECE
        if count <= rows:
            return  # one block: its values are summed as they are
        # an absent class starts no piece, which bounds the pieces of a block
        begins = torch.where(runs.counts > 0, runs.begins, count)
        self._starts = F.pad(_starts(count, begins), (0, 1), value=count)
        first = torch.arange(0, count, rows, device=device)
        lane = torch.arange(rows // _PIECE + min(len(begins), rows) + 1, device=device)
        places = torch.searchsorted(self._starts, first).unsqueeze(1) + lane
        found = self._starts.take(places.clamp(max=len(self._starts) - 1))
        self._places = places.unbind()
        self._cuts = (found - first.unsqueeze(1)).clamp(max=rows).unbind()
        self._lane = torch.arange(rows, device=device)
        shape = (len(self._starts) + len(lane), dim)
        self._sums = torch.zeros(shape, dtype=torch.float64, device=device)

    def sums(self, values_of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Sums (K, D) by class of ``values_of(rows, labels)``, (P, D) float64, over all blocks."""
        runs = self._runs
        if len(runs.order) <= self._rows:
            return sum_runs(values_of(runs.order, runs.labels), None, runs.begins)
        blocks = runs.order.split(self._rows), runs.labels.split(self._rows)
        for order, labels, cuts, places in zip(*blocks, self._cuts, self._places, strict=True):
            values = values_of(order, labels)
            cuts, lane = cuts.clamp(max=len(values)), self._lane.narrow(0, 0, len(values))
            # pieces behind the block's last are empty; the next block overwrites them
            self._sums.index_copy_(0, places, F.embedding_bag(lane, values, cuts, mode="sum"))
        return sum_runs(
            self._sums.narrow(0, 0, len(self._starts)),
            None,
            torch.searchsorted(self._starts, runs.begins),
        )
