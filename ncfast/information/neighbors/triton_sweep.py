"""Neighbours by direct differences in Triton, in float64, for rows on a CUDA device.

The kernels (`ncfast.kernels.neighbors`) compare scores: squared Euclidean distances, or maximum
norms. A distance is the rounded root of a score. It is less than a radius exactly if the score is
below the smallest score whose root is not less. No function here synchronises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast.information.neighbors import reference
from ncfast.information.neighbors._groups import restored
from ncfast.information.neighbors._types import Metric
from ncfast.kernels.configuration import NeighborsConfig, neighbors_config
from ncfast.ops._fallback import with_fallback
from ncfast.ops.blocks import multiprocessors

_NAME = "neighbours"
_FEW = 512  # rows with which the kernels are compared with the reference at their first use
_MOST = 32  # largest k for which the kernels hold the neighbours in registers


class _Sorted(NamedTuple):
    """All columns in float64, rows sorted by class and laid out for the kernels."""

    points: Tensor  # (1, d, N)
    starts: list[int]  # first column of each block, then d
    ranges: tuple[Tensor, Tensor]  # (N,) int32: the rows of the same class, first and last + 1
    order: Tensor | None  # (N,) original number of each row


def _sort(blocks: Sequence[Tensor], labels: Tensor | None) -> _Sorted:
    rows = torch.cat([block.to(torch.float64) for block in blocks], dim=1)
    starts = [0]
    for block in blocks:
        starts.append(starts[-1] + block.shape[1])
    if labels is None:
        begins = torch.zeros(len(rows), dtype=torch.int32, device=rows.device)
        return _Sorted(rows.T.contiguous()[None], starts, (begins, begins + len(rows)), None)
    ordered, order = torch.sort(labels, stable=True)
    ranges = (torch.searchsorted(ordered, ordered, right=right) for right in (False, True))
    begins, ends = (each.to(torch.int32) for each in ranges)
    return _Sorted(rows[order].T.contiguous()[None], starts, (begins, ends), order)


def _config(rows: Tensor, k: int = 1) -> NeighborsConfig:
    return neighbors_config(len(rows), 8, multiprocessors(rows.device), k)


def knn(x: Tensor, k: int, metric: Metric, labels: Tensor | None) -> tuple[Tensor, Tensor, float]:
    """Distances and indices of the k nearest rows (of the same class); see `Neighbors`."""

    def plain() -> tuple[Tensor, Tensor, float]:
        return reference.knn(x, k, metric, labels)

    def kernels(x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, float]:
        from ncfast.kernels.neighbors import nearest_rows

        rows = _sort([x], labels)
        found = nearest_rows(*rows[:3], k, metric == "l2", config)
        distances = reference.distance(found[0][0], metric)
        indices = found[1][0].to(torch.int64)
        if rows.order is not None:
            indices = torch.where(indices < 0, -1, rows.order[indices.clamp(min=0)])
        return restored(distances, rows.order), restored(indices, rows.order), 1.0

    def error() -> Tensor:
        few = x[:_FEW], _first(labels)
        return _differ(kernels(*few)[:2], reference.knn(few[0], k, metric, few[1])[:2])

    if k > _MOST:
        return plain()
    config = _config(x, k)  # of all rows, also where few are compared
    return with_fallback(_NAME, x, lambda: kernels(x, labels), plain, f"k = {k}", error)


def joint(
    blocks: Sequence[Tensor], k: int, metric: Metric, rectangle: bool, labels: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
    """Joint radii, counts, extents and ties; see `JointNeighbors`."""

    def plain() -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        return reference.joint(blocks, k, metric, rectangle, labels)

    def kernels(
        blocks: Sequence[Tensor], labels: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        from ncfast.kernels.neighbors import count_rows, nearest_rows

        rows, euclidean = _sort(blocks, labels), metric == "l2"
        scores, _, reach = nearest_rows(*rows[:3], k, euclidean, config)
        radii = reference.distance(scores[0, :, -1].contiguous(), metric)
        # Rows without a k-th neighbour (small classes) have infinite extents.
        extents = reference.distance(reach[0], metric).where(radii.isfinite(), torch.inf)
        each = extents if rectangle else radii.expand_as(extents)
        limits = _limits(each, metric, strict=not rectangle)
        ties = _limits(radii, metric, strict=False)
        counts = count_rows(*rows[:3], torch.cat((limits, ties[None]))[None], euclidean, counting)[
            0
        ].to(torch.int64)
        *within, tied = (restored(count, rows.order) for count in counts)
        return (
            restored(radii, rows.order),
            tuple(within),
            tuple(restored(extent, rows.order) for extent in extents),
            tied,
        )

    def error() -> Tensor:
        few = [block[:_FEW] for block in blocks], _first(labels)
        return _differ(
            _flat(kernels(*few)), _flat(reference.joint(few[0], k, metric, rectangle, few[1]))
        )

    if k > _MOST:
        return plain()
    config, counting = _config(blocks[0], k), _config(blocks[0])
    path = f"joint, k = {k}"
    return with_fallback(_NAME, blocks[0], lambda: kernels(blocks, labels), plain, path, error)


def count(x: Tensor, radii: Tensor, metric: Metric, strict: bool, labels: Tensor | None) -> Tensor:
    """Number of other rows (of the same class) nearer than ``radii``, or at most as far."""

    def plain() -> Tensor:
        return reference.count(x, radii, metric, strict, labels)

    def kernels(x: Tensor, radii: Tensor, labels: Tensor | None) -> Tensor:
        from ncfast.kernels.neighbors import count_rows

        rows = _sort([x], labels)
        reach = radii if rows.order is None else radii[rows.order]
        limits = _limits(reach, metric, strict=strict).expand(1, 2, -1).contiguous()
        counts = count_rows(*rows[:3], limits, metric == "l2", config)
        return restored(counts[0, 0].to(torch.int64), rows.order)

    def error() -> Tensor:
        few = x[:_FEW], radii[:_FEW], _first(labels)
        expected = reference.count(*few[:2], metric, strict, few[2])
        return _differ((kernels(*few),), (expected,))

    config = _config(x)
    return with_fallback(_NAME, x, lambda: kernels(x, radii, labels), plain, "count", error)


def _first(labels: Tensor | None) -> Tensor | None:
    return None if labels is None else labels[:_FEW]


def _flat(
    results: tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], Tensor],
) -> tuple[Tensor, ...]:
    radii, within, extents, tied = results
    return radii, *within, *extents, tied


def _differ(found: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
    """Infinite if any entry differs, else 0, (): all engines give the same bits."""
    pairs = zip(found, expected, strict=True)
    same = torch.stack([(one == other).all() for one, other in pairs]).all()
    return torch.where(same, 0.0, torch.inf)


def _limits(radii: Tensor, metric: Metric, *, strict: bool) -> Tensor:
    """The scores below which a distance is less than ``radii``, or at most ``radii``."""
    infinite = torch.full_like(radii, torch.inf)
    limit = radii if strict else torch.nextafter(radii, infinite)
    if metric == "linf":
        return limit.where(radii.isfinite(), radii)
    # The smallest score whose root reaches the limit is within a few units of its square.
    score = limit * limit
    for _ in range(2):
        score = torch.nextafter(score, torch.zeros_like(score))
    for _ in range(4):
        below = reference.distance(score, metric) < limit
        score = torch.where(below, torch.nextafter(score, infinite), score)
    return torch.where(limit > 0, score, limit).where(radii.isfinite(), radii)
