"""Neighbours by the flat index of FAISS, with a certificate.

FAISS is imported by the first search.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from ncfast.information.neighbors import certificate
from ncfast.information.neighbors._types import Metric
from ncfast.information.neighbors.certificate import Candidates

INSTALLED = importlib.util.find_spec("faiss") is not None  # does not import it


def search(x: Tensor, number: int, metric: Metric) -> Candidates:
    """The ``number`` nearest rows by FAISS, and a lower bound of the scores of the others."""
    assert metric == "l2", metric
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    near = certificate.rounded(x)
    rows = near.rows.numpy()
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(rows)
    scores, indices = index.search(rows, number)
    worst = torch.from_numpy(scores[:, -1].copy())
    return Candidates(torch.from_numpy(indices), certificate.floor(worst, near, number))


def knn(x: Tensor, k: int, metric: Metric, labels: Tensor | None) -> tuple[Tensor, Tensor, float]:
    """Distances and indices of the k nearest rows (of the same class); see `Neighbors`."""
    return certificate.knn(search, x, k, metric, labels)
