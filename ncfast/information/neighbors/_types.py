"""The results of neighbour searches, and the interface of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

Metric = Literal["l2", "linf"]
JointMetric = Literal["l2max", "linf"]


class Neighbors(NamedTuple):
    """The k nearest other rows of every row, nearest first. Ties are in order of row number.

    Attributes:
        distances: (N, k) float64; infinite if the class has too few members.
        indices: (N, k) int64; -1 if the class has too few members.
        backend: the engine that found them.
        certified: share of rows that needed no second search.
    """

    distances: Tensor
    indices: Tensor
    backend: str
    certified: float


class JointNeighbors(NamedTuple):
    """Joint radii and counts within blocks of columns, as the KSG estimators need them.

    The joint distance is the largest of the distances within the blocks. Radii and extents are
    infinite for rows of a class of at most k members.

    Attributes:
        radii: (N,) float64, joint distance of the k-th nearest other row.
        counts: per block (N,) int64, the number of other rows strictly nearer than ``radii`` in
            that block. With ``rectangle=True``, the number at most as far as its ``extents``.
        extents: per block (N,) float64, largest distance in that block to the k neighbours.
        ties: (N,) int64, the number of other rows at a joint distance of at most ``radii``.
        backend: the engine that found them.
    """

    radii: Tensor
    counts: tuple[Tensor, ...]
    extents: tuple[Tensor, ...]
    ties: Tensor
    backend: str


class Engine(Protocol):
    """An engine: the searches on validated arguments, with ``labels`` as int64."""

    def knn(
        self, x: Tensor, k: int, metric: Metric, labels: Tensor | None
    ) -> tuple[Tensor, Tensor, float]:
        """Distances, indices, and the share of rows that needed no second search."""

    def joint(
        self,
        blocks: Sequence[Tensor],
        k: int,
        metric: Metric,
        rectangle: bool,
        labels: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        """Radii, counts, extents, ties."""

    def count(
        self, x: Tensor, radii: Tensor, metric: Metric, strict: bool, labels: Tensor | None
    ) -> Tensor:
        """Number of other rows within ``radii``."""
