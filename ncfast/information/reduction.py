"""Principal components, of all rows or within classes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ncfast._arrays import as_integer


class Projection(NamedTuple):
    """Orthonormal axes (D, r) and the shares (r,) of the variance that they hold, descending."""

    axes: Tensor
    shares: Tensor

    @property
    def explained(self) -> float:
        """Share of the variance that all axes together hold."""
        return float(self.shares.sum())

    def first(self, dim: int) -> Projection:
        """The leading axes alone."""
        return Projection(self.axes[:, :dim], self.shares[:dim])


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
        `Projection`, with min(dim, D, N) axes; of equal shares where columns are kept as they are.
    """
    columns = rows.shape[1]
    if dim is not None:
        dim = as_integer("dim", dim)  # of NumPy's, -dim could wrap around
    if dim is None or dim >= columns:
        everything = torch.eye(columns, dtype=rows.dtype, device=rows.device)
        return Projection(everything, rows.new_full((columns,), 1 / columns))
    centred = residuals(rows, classes)
    wide = columns > len(rows)
    values, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    values, axes = values.clamp(min=0).flip(0), vectors[:, -dim:].flip(1)
    if wide:
        axes = torch.linalg.qr(centred.T @ axes)[0]
    total = torch.where(values.sum() > 0, values.sum(), 1.0)
    return Projection(axes, values[:dim] / total)
