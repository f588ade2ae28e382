"""Neighbours and counts by SciPy's k-d tree, for low dimension without the C++ extension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncfast.information.neighbors import certificate, reference
from ncfast.information.neighbors._groups import groups
from ncfast.information.neighbors._types import Metric
from ncfast.information.neighbors.certificate import Candidates

_ORDER = {"l2": 2.0, "linf": np.inf}


def search(x: Tensor, number: int, metric: Metric) -> Candidates:
    """The ``number`` nearest rows for each row.

    The scores have an error, because the tree sums squares in another order.
    """
    points = x.numpy()
    tree = _tree(points)
    distances, indices = tree.query(
        points, np.arange(1, number + 1), p=_ORDER[metric], workers=torch.get_num_threads()
    )
    scores = torch.from_numpy(distances)
    if metric == "l2":
        scores = scores.square()
    error = 3 * _margin(x) * scores.amax(1)
    return Candidates(torch.from_numpy(indices.astype(np.int64)), scores, error, sure=True)


def _tree(points: np.ndarray[Any, Any]) -> Any:
    from scipy.spatial import cKDTree  # lazy: it would add 0.1 s to `import ncfast`

    return cKDTree(points)


def _margin(x: Tensor) -> float:
    return (x.shape[1] + 8) * 2.0**-52


def knn(x: Tensor, k: int, metric: Metric, labels: Tensor | None) -> tuple[Tensor, Tensor, float]:
    """Distances and indices of the k nearest rows (of the same class); see `Neighbors`."""
    return certificate.knn(search, x, k, metric, labels)


def count(x: Tensor, radii: Tensor, metric: Metric, strict: bool, labels: Tensor | None) -> Tensor:
    """Number of other rows (of the same class) nearer than ``radii``, or at most as far."""
    counts = torch.zeros_like(radii, dtype=torch.int64)
    for members in groups(labels, x):
        wide = x[members].double().contiguous()
        counts[members] = _count(wide, radii[members], metric, strict)
    return counts


def _count(x: Tensor, radii: Tensor, metric: Metric, strict: bool) -> Tensor:
    points, margin = x.numpy(), _margin(x)
    tree = _tree(points)

    def within(reach: Tensor) -> Tensor:
        found = tree.query_ball_point(
            points, reach.clamp(min=0).numpy(), p=_ORDER[metric], return_length=True,
            workers=torch.get_num_threads(),
        )  # fmt: skip
        return torch.from_numpy(np.asarray(found, dtype=np.int64)) - 1

    counts = within(radii * (1 - margin))
    # If a slightly larger radius finds more rows, a row is at about the radius.
    unclear = (counts != within(radii * (1 + margin))) | ~(radii > 0)
    rows = unclear.nonzero()[:, 0]
    for part in rows.split(max(1, (1 << 22) // len(x))):
        near = reference.distance(reference.scores(x[part], x, metric), metric)
        near[torch.arange(len(part), device="cpu"), part] = torch.inf
        counts[part] = reference.within(near, radii[part], strict=strict)
    return counts


def joint(
    blocks: Sequence[Tensor], k: int, metric: Metric, rectangle: bool, labels: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
    """Joint radii, counts, extents and ties; see `JointNeighbors`.

    The tree uses one norm for all columns. The maximum norm is such a norm, and so is "l2max" with
    one column per block. All other searches use the reference.
    """
    if metric == "l2" and any(block.shape[1] > 1 for block in blocks):
        return reference.joint(blocks, k, metric, rectangle, labels)
    # In one column the root of the rounded square is the number itself, so the norms agree.
    together = torch.cat([block.double() for block in blocks], dim=1)
    near, indices, _ = knn(together, min(k + 1, len(together) - 1), "linf", labels)
    radii = near[:, k - 1].clone()
    ties = (near <= radii[:, None]).sum(1)
    if bool((ties != k).any()):
        ties = count(together, radii, "linf", False, labels)
    extents = tuple(_extent(block.double(), indices[:, :k], radii) for block in blocks)
    counts = tuple(
        count(block, extent if rectangle else radii, metric, not rectangle, labels)
        for block, extent in zip(blocks, extents, strict=True)
    )
    return radii, counts, extents, ties


def _extent(block: Tensor, indices: Tensor, radii: Tensor) -> Tensor:
    score = certificate.exact_scores(block.contiguous(), indices.clamp(min=0), "linf").amax(1)
    return torch.where(radii.isinf(), torch.inf, score)
