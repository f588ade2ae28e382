"""Principal components, of all rows or within classes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Projection(NamedTuple):
    """Orthonormal axes (D, r) and the share of the variance that they hold."""

    axes: Tensor
    explained: float


def residuals(rows: Tensor, classes: Tensor | None) -> Tensor:
    """Rows less their mean, or less the mean of their class."""
    centred = rows - rows.mean(0)
    if classes is None:
        return centred
    counts = torch.bincount(classes).to(rows.dtype).unsqueeze(1)
    sums = rows.new_zeros(len(counts), rows.shape[1]).index_add_(0, classes, centred)
    return centred - (sums / counts)[classes]


def principal(rows: Tensor, dim: int | None, classes: Tensor | None = None) -> Projection:
    """The first principal components, in float64, exact and without a random number.

    By the eigenvectors of the smaller of the D x D and N x N matrices. With classes, those of the
    pooled scatter within classes: after collapse the components of all rows only tell classes
    apart, and what is left inside a class lies elsewhere.

    Args:
        rows: (N, D) float64.
        dim: components; None, or D and more, keeps all columns as they are.
        classes: (N,) class numbers without gaps.

    Returns:
        `Projection`, with min(dim, D, N) axes.
    """
    columns = rows.shape[1]
    if dim is None or dim >= columns:
        return Projection(torch.eye(columns, dtype=rows.dtype, device=rows.device), 1.0)
    centred = residuals(rows, classes)
    wide = columns > len(rows)
    values, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    axes = vectors[:, -dim:].flip(1)
    if wide:
        axes = torch.linalg.qr(centred.T @ axes)[0]
    total = values.clamp(min=0).sum()
    kept = values[-dim:].clamp(min=0).sum()
    return Projection(axes, float(kept / total) if bool(total > 0) else 1.0)
