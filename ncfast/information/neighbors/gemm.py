"""Neighbours by matrix products in torch, with a certificate, for high dimension on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast._surroundings import ieee_float32
from ncfast.information.neighbors import certificate
from ncfast.information.neighbors._types import Metric
from ncfast.information.neighbors.certificate import Candidates

_BLOCK = 1 << 23  # number of float32 scores in memory at a time: 32 MB


def search(x: Tensor, number: int, metric: Metric) -> Candidates:
    """The ``number`` rows of smallest |x|^2 + |y|^2 - 2 x y for each row."""
    assert metric == "l2", metric
    near = certificate.rounded(x)
    norms = near.rows.square().sum(1)
    indices = torch.empty(len(x), number, dtype=torch.int64, device=x.device)
    scores = torch.empty(len(x), number, device=x.device, dtype=torch.float32)
    with ieee_float32(x.device):
        for rows in torch.arange(len(x), device=x.device).split(max(1, _BLOCK // len(x))):
            score = torch.addmm(norms, near.rows[rows], near.rows.T, alpha=-2)
            values, indices[rows] = score.topk(number, largest=False)
            scores[rows] = values + norms[rows, None]
    return certificate.candidates(indices, scores, near)


def knn(x: Tensor, k: int, metric: Metric, labels: Tensor | None) -> tuple[Tensor, Tensor, float]:
    """Distances and indices of the k nearest rows (of the same class); see `Neighbors`."""
    return certificate.knn(search, x, k, metric, labels)
