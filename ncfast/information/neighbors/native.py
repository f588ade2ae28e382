"""The C++ engines: a sweep by direct differences for any dimension, a tree for low ones.

The sweep runs in float32 with a bound on its rounding and decides in float64 whatever lies within
the bound, or the whole row where too much does; the tree works in float64 throughout.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast.information.neighbors._types import Metric
from ncfast.ops import _raw


class _Sorted(NamedTuple):
    """All columns in float64, rows sorted by class."""

    rows: Tensor  # (N, d)
    ends: list[int]  # column after each block
    offsets: list[int]  # first row of each class, then N
    order: Tensor | None  # (N,) where each row came from


def _sort(blocks: Sequence[Tensor], labels: Tensor | None) -> _Sorted:
    if len(blocks) == 1:
        rows = blocks[0].to(torch.float64)
    else:
        rows = torch.cat([block.to(torch.float64) for block in blocks], dim=1)
    ends = list(itertools.accumulate(block.shape[1] for block in blocks))
    if labels is None:
        return _Sorted(rows.contiguous(), ends, [0, len(rows)], None)
    order = torch.sort(labels, stable=True).indices
    _, counts = torch.unique(labels, return_counts=True)
    return _Sorted(rows[order].contiguous(), ends, [0, *counts.cumsum(0).tolist()], order)


def _back(values: Tensor, order: Tensor | None) -> Tensor:
    """Rows in the order they came in."""
    return values if order is None else torch.empty_like(values).index_copy_(0, order, values)


class Native:
    """An engine of the extension; ``tree`` says which."""

    def __init__(self, *, tree: bool) -> None:
        self.tree = tree

    def knn(
        self, x: Tensor, k: int, metric: Metric, labels: Tensor | None
    ) -> tuple[Tensor, Tensor, float]:
        """Distances and indices of the k nearest rows (of the same class); see `Neighbors`."""
        assert _raw.extension is not None, _raw.import_error
        rows, ends, offsets, order = _sort([x], labels)
        distances = _raw.FLOAT64.new_empty((len(x), k))
        ids = _raw.INT64.new_empty((len(x), k))
        second = _raw.extension.knn_nearest(
            self.tree, rows.data_ptr(), ends, offsets, metric == "linf", k,
            distances.data_ptr(), ids.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        if order is not None:
            ids = torch.where(ids < 0, -1, order[ids.clamp(min=0)])
        return _back(distances, order), _back(ids, order), 1 - second / len(x)

    def joint(
        self,
        blocks: Sequence[Tensor],
        k: int,
        metric: Metric,
        rectangle: bool,
        labels: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        """Joint radii, counts, extents and ties; see `JointNeighbors`."""
        assert _raw.extension is not None, _raw.import_error
        rows, ends, offsets, order = _sort(blocks, labels)
        radii = _raw.FLOAT64.new_empty(len(rows))
        extents = _raw.FLOAT64.new_empty((len(blocks), len(rows)))
        counts = _raw.INT64.new_empty((len(blocks), len(rows)))
        ties = _raw.INT64.new_empty(len(rows))
        _raw.extension.knn_joint(
            self.tree, rows.data_ptr(), ends, offsets, metric == "linf", k, rectangle,
            radii.data_ptr(), counts.data_ptr(), extents.data_ptr(), ties.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return (
            _back(radii, order),
            tuple(_back(each, order) for each in counts),
            tuple(_back(each, order) for each in extents),
            _back(ties, order),
        )

    def count(
        self, x: Tensor, radii: Tensor, metric: Metric, strict: bool, labels: Tensor | None
    ) -> Tensor:
        """Number of other rows (of the same class) nearer than ``radii``, or at most as far."""
        assert _raw.extension is not None, _raw.import_error
        rows, ends, offsets, order = _sort([x], labels)
        reach = (radii if order is None else radii[order]).contiguous()
        counts = _raw.INT64.new_empty(len(x))
        _raw.extension.knn_count(
            self.tree, rows.data_ptr(), ends, offsets, metric == "linf",
            reach.data_ptr(), strict, counts.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return _back(counts, order)
