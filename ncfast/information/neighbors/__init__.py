"""Exact nearest neighbours and range counts, with several engines behind one interface."""

from ncfast.information.neighbors._types import JointNeighbors, Neighbors
from ncfast.information.neighbors.dispatch import neighbor_backend, neighbor_backends
from ncfast.information.neighbors.search import joint_radii_and_counts, knn, range_count

__all__ = [
    "JointNeighbors",
    "Neighbors",
    "joint_radii_and_counts",
    "knn",
    "neighbor_backend",
    "neighbor_backends",
    "range_count",
]
