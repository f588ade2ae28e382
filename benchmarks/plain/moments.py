"""Class moments as commonly written in torch, the contestants of ncfast.

Each takes features (N, D), int64 labels, K and the rows per batch, and returns counts, means,
within-class sums of squares, sum and maximum of the row norms. `published` is the one-pass
E[x^2] - E[x]^2 of published collapse code, and `sums` the same with fewer temporaries. Both are
unstable on collapsed features. The others are stable. They compute in the dtype of the features, or
in ``dtype``, to which rows are converted batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Result = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Reference = Callable[..., Result]


def published(x: Tensor, y: Tensor, k: int, batch: int, dtype: torch.dtype | None = None) -> Result:
    first, second, norm_sum, norm_max = _zeros(x, k, dtype)
    for rows, label in _batches(x, y, batch, first.dtype):
        first.index_add_(0, label, rows)
        second.index_add_(0, label, rows.pow(2).sum(1))
        norms = rows.norm(dim=1)
        norm_sum += norms.sum()
        norm_max = torch.maximum(norm_max, norms.max())
    counts = torch.bincount(y, minlength=k)
    means = first / counts.clamp(min=1)[:, None]
    return counts, means, second - counts * means.pow(2).sum(1), norm_sum, norm_max


def sums(x: Tensor, y: Tensor, k: int, batch: int, dtype: torch.dtype | None = None) -> Result:
    first, second, norm_sum, norm_max = _zeros(x, k, dtype)
    for rows, label in _batches(x, y, batch, first.dtype):
        first.index_add_(0, label, rows)
        norms = torch.linalg.vector_norm(rows, dim=1)
        second.index_add_(0, label, norms.square())
        norm_sum += norms.sum()
        norm_max = torch.maximum(norm_max, norms.max())
    counts = torch.bincount(y, minlength=k)
    means = first / counts.clamp(min=1)[:, None]
    return counts, means, second - counts * means.square().sum(1), norm_sum, norm_max


def pivoted(x: Tensor, y: Tensor, k: int, batch: int, dtype: torch.dtype | None = None) -> Result:
    counts = torch.bincount(y, minlength=k)
    numbers = torch.arange(len(y), device=y.device)
    index = torch.full_like(counts, len(y) - 1).scatter_reduce_(0, y, numbers, "amin")
    first, second, norm_sum, norm_max = _zeros(x, k, dtype)
    pilots = x[index].to(first.dtype)
    for rows, label in _batches(x, y, batch, first.dtype):
        norms = torch.linalg.vector_norm(rows, dim=1)
        norm_sum += norms.sum()
        norm_max = torch.maximum(norm_max, norms.max())
        shifted = rows - pilots[label]
        first.index_add_(0, label, shifted)
        second.index_add_(0, label, torch.linalg.vector_norm(shifted, dim=1).square())
    shift = first / counts.clamp(min=1)[:, None]
    return counts, pilots + shift, second - counts * shift.square().sum(1), norm_sum, norm_max


def two_pass(x: Tensor, y: Tensor, k: int, batch: int, dtype: torch.dtype | None = None) -> Result:
    counts = torch.bincount(y, minlength=k)
    total, within, norm_sum, norm_max = _zeros(x, k, dtype)
    for rows, label in _batches(x, y, batch, total.dtype):
        total.index_add_(0, label, rows)
    means = total / counts.clamp(min=1)[:, None]
    for rows, label in _batches(x, y, batch, total.dtype):
        norms = torch.linalg.vector_norm(rows, dim=1)
        norm_sum += norms.sum()
        norm_max = torch.maximum(norm_max, norms.max())
        deviation = torch.linalg.vector_norm(rows - means[label], dim=1)
        within.index_add_(0, label, deviation.square())
    return counts, means, within, norm_sum, norm_max


def one_hot(x: Tensor, y: Tensor, k: int, batch: int, dtype: torch.dtype | None = None) -> Result:
    counts = torch.bincount(y, minlength=k)
    total, within, norm_sum, norm_max = _zeros(x, k, dtype)
    for rows, label in _batches(x, y, batch, total.dtype):
        total += torch.nn.functional.one_hot(label, k).to(rows.dtype).T @ rows
    means = total / counts.clamp(min=1)[:, None]
    for rows, label in _batches(x, y, batch, total.dtype):
        indicator = torch.nn.functional.one_hot(label, k).to(rows.dtype)
        norms = torch.linalg.vector_norm(rows, dim=1)
        norm_sum += norms.sum()
        norm_max = torch.maximum(norm_max, norms.max())
        within += (rows - indicator @ means).square().sum(1) @ indicator
    return counts, means, within, norm_sum, norm_max


def compilable(x: Tensor, y: Tensor, k: int) -> Result:
    """Two passes over all rows at once, with operations that torch.compile can fuse."""
    wide = x.float() if x.itemsize < 4 else x
    counts = y.new_zeros(k).index_add(0, y, torch.ones_like(y))
    means = wide.new_zeros(k, x.shape[1]).index_add(0, y, wide) / counts.clamp(min=1)[:, None]
    deviation = (wide - means[y]).square().sum(1)
    within = wide.new_zeros(k).index_add(0, y, deviation)
    norms = wide.square().sum(1).sqrt()
    return counts, means, within, norms.sum(), norms.max()


def _zeros(x: Tensor, k: int, dtype: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Zeros for a (K, D) and a (K,) sum, and for the sum and the maximum of the norms."""
    like = x.new_zeros((), dtype=dtype or x.dtype)
    return like.new_zeros(k, x.shape[1]), like.new_zeros(k), like.new_zeros(()), like.new_zeros(())


def _batches(
    x: Tensor, y: Tensor, batch: int, dtype: torch.dtype
) -> Iterator[tuple[Tensor, Tensor]]:
    for rows, label in zip(x.split(batch), y.split(batch), strict=True):
        yield rows.to(dtype), label


REFERENCES: dict[str, Reference] = {
    "published": published,
    "sums": sums,
    "pivoted": pivoted,
    "two_pass": two_pass,
    "one_hot": one_hot,
}
