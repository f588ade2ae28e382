"""What a search for neighbours returns, and what an engine has to provide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

Metric = Literal["l2", "linf"]
JointMetric = Literal["l2max", "linf"]


class Neighbors(NamedTuple):
    """The k nearest other rows of every row, nearest first; a lower row number wins a tie.

    Attributes:
        distances: (N, k) float64; infinite where a class holds too few members.
        indices: (N, k) int64; -1 where a class holds too few members.
        backend: the engine that found them.
        certified: share of rows that needed no second search.
    """

    distances: Tensor
    indices: Tensor
    backend: str
    certified: float


class JointNeighbors(NamedTuple):
    """What the KSG estimators need of a joint space of several blocks of columns.

    The joint distance is the largest of the distances within the blocks. A row of a class of at
    most k members has infinite radii and extents.

    Attributes:
        radii: (N,) float64, joint distance of the k-th nearest other row.
        counts: per block (N,) int64, other rows strictly nearer than ``radii`` in that block; with
            ``rectangle=True`` those at most as far as the block's own ``extents``.
        extents: per block (N,) float64, largest distance in that block among the k neighbours.
        ties: (N,) int64, other rows at a joint distance of at most ``radii``.
        backend: the engine that found them.
    """

    radii: Tensor
    counts: tuple[Tensor, ...]
    extents: tuple[Tensor, ...]
    ties: Tensor
    backend: str


class Engine(Protocol):
    """One way to search; arguments are validated already, ``labels`` are int64."""

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
