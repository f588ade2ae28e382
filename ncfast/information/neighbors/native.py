"""The C++ engines: direct differences for any dimension, and a tree for low dimension.

Direct differences are computed in float32 with a bound on their rounding error. Cases within the
bound are decided in float64. A row with too many of them is searched again in float64. The tree
works in float64 throughout.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast.information.neighbors._groups import restored
from ncfast.information.neighbors._types import Metric
from ncfast.ops import _raw


class _Sorted(NamedTuple):
    """All columns in float64, rows sorted by class."""

    rows: Tensor  # (N, d)
    ends: list[int]  # end column of each block
    offsets: list[int]  # first row of each class, then N
    order: Tensor | None  # (N,) original number of each row


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


class Native:
    """An engine of the C++ extension: the tree, or direct differences."""

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
        return restored(distances, order), restored(ids, order), 1 - second / len(x)

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
            restored(radii, order),
            tuple(restored(each, order) for each in counts),
            tuple(restored(each, order) for each in extents),
            restored(ties, order),
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
        return restored(counts, order)
