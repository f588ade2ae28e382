"""Mutual information of Gaussians with the covariance of the data: a reference, not a bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_RANK = 1e-10  # eigenvalues below this share of the largest are rounding


def _whiten(rows: Tensor) -> Tensor:
    """(N, r) with identity second moments, r the rank of the centred rows."""
    centred = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
    kept = values > _RANK * values[-1].clamp(min=torch.finfo(rows.dtype).tiny)
    return centred @ (vectors[:, kept] / values[kept].sqrt())


def canonical_information(x: Tensor, y: Tensor) -> float:
    """-1/2 sum ln(1 - r^2) over the canonical correlations r, less its bias dx dy / 2N, in nats.

    Exact for Gaussians and blind to dependence that is not linear. Infinite where one block
    determines a combination of the other.
    """
    first, second = _whiten(x), _whiten(y)
    if first.shape[1] == 0 or second.shape[1] == 0:
        return 0.0
    correlation = torch.linalg.svdvals(first.T @ second / len(x)).clamp(max=1.0)
    rest = 1 - correlation.square()
    rest = torch.where(rest > 1e-12, rest, 0.0)
    value = -0.5 * float(rest.log().sum())
    return value if math.isinf(value) else value - first.shape[1] * second.shape[1] / (2 * len(x))
