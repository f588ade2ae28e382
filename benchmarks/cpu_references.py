"""Class moments as people write them in torch: what the CPU backend is measured against.

Each takes features (N, D), int64 labels, K and the rows per batch, and returns counts, means,
within-class sums of squares, sum and maximum of the row norms. `published` is the one-pass
E[x^2] - E[x]^2 of published collapse code, `sums` the same with its temporaries taken out; neither
is stable on collapsed features. The `STABLE` ones are honest competitors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Result = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Reference = Callable[[Tensor, Tensor, int, int], Result]


def published(x: Tensor, y: Tensor, k: int, batch: int) -> Result:
    first = x.new_zeros(k, x.shape[1])
    second = x.new_zeros(k)
    norm_sum, norm_max = x.new_zeros(()), x.new_zeros(())
    for rows, label in zip(x.split(batch), y.split(batch), strict=True):
        first.index_add_(0, label, rows)
        second.index_add_(0, label, rows.pow(2).sum(1))
        norms = rows.norm(dim=1)
        norm_sum += norms.sum()
        norm_max = torch.maximum(norm_max, norms.max())
    counts = torch.bincount(y, minlength=k)
    means = first / counts.clamp(min=1)[:, None]
    return counts, means, second - counts * means.pow(2).sum(1), norm_sum, norm_max


def sums(x: Tensor, y: Tensor, k: int, batch: int) -> Result:
    first = x.new_zeros(k, x.shape[1])
    second = x.new_zeros(k)
    norm_sum, norm_max = x.new_zeros(()), x.new_zeros(())
    for rows, label in zip(x.split(batch), y.split(batch), strict=True):
        first.index_add_(0, label, rows)
        norms = torch.linalg.vector_norm(rows, dim=1)
        second.index_add_(0, label, norms.square())
        norm_sum += norms.sum()
        norm_max = torch.maximum(norm_max, norms.max())
    counts = torch.bincount(y, minlength=k)
    means = first / counts.clamp(min=1)[:, None]
    return counts, means, second - counts * means.square().sum(1), norm_sum, norm_max


def pivoted(x: Tensor, y: Tensor, k: int, batch: int) -> Result:
    counts = torch.bincount(y, minlength=k)
    index = torch.full((k,), len(y) - 1).scatter_reduce_(0, y, torch.arange(len(y)), "amin")
    pilots = x[index]
    first = x.new_zeros(k, x.shape[1])
    second = x.new_zeros(k)
    norm_sum, norm_max = x.new_zeros(()), x.new_zeros(())
    for rows, label in zip(x.split(batch), y.split(batch), strict=True):
        norms = torch.linalg.vector_norm(rows, dim=1)
        norm_sum += norms.sum()
        norm_max = torch.maximum(norm_max, norms.max())
        shifted = rows - pilots[label]
        first.index_add_(0, label, shifted)
        second.index_add_(0, label, torch.linalg.vector_norm(shifted, dim=1).square())
    shift = first / counts.clamp(min=1)[:, None]
    return counts, pilots + shift, second - counts * shift.square().sum(1), norm_sum, norm_max


def two_pass(x: Tensor, y: Tensor, k: int, batch: int) -> Result:
    counts = torch.bincount(y, minlength=k)
    total = x.new_zeros(k, x.shape[1])
    for rows, label in zip(x.split(batch), y.split(batch), strict=True):
        total.index_add_(0, label, rows)
    means = total / counts.clamp(min=1)[:, None]
    within = x.new_zeros(k)
    norm_sum, norm_max = x.new_zeros(()), x.new_zeros(())
    for rows, label in zip(x.split(batch), y.split(batch), strict=True):
        norms = torch.linalg.vector_norm(rows, dim=1)
        norm_sum += norms.sum()
        norm_max = torch.maximum(norm_max, norms.max())
        deviation = torch.linalg.vector_norm(rows - means[label], dim=1)
        within.index_add_(0, label, deviation.square())
    return counts, means, within, norm_sum, norm_max


def one_hot(x: Tensor, y: Tensor, k: int, batch: int) -> Result:
    counts = torch.bincount(y, minlength=k)
    total = x.new_zeros(k, x.shape[1])
    for rows, label in zip(x.split(batch), y.split(batch), strict=True):
        total += torch.nn.functional.one_hot(label, k).to(x.dtype).T @ rows
    means = total / counts.clamp(min=1)[:, None]
    within = x.new_zeros(k)
    norm_sum, norm_max = x.new_zeros(()), x.new_zeros(())
    for rows, label in zip(x.split(batch), y.split(batch), strict=True):
        indicator = torch.nn.functional.one_hot(label, k).to(x.dtype)
        norms = torch.linalg.vector_norm(rows, dim=1)
        norm_sum += norms.sum()
        norm_max = torch.maximum(norm_max, norms.max())
        within += (rows - indicator @ means).square().sum(1) @ indicator
    return counts, means, within, norm_sum, norm_max


REFERENCES: dict[str, Reference] = {
    "published": published,
    "sums": sums,
    "pivoted": pivoted,
    "two_pass": two_pass,
    "one_hot": one_hot,
}
STABLE = ("pivoted", "two_pass", "one_hot")


def truth(x: Tensor, y: Tensor, k: int) -> Tensor:
    """Tr(Sigma_W) N by two passes in float64, without a float64 copy of the features."""
    counts = torch.bincount(y, minlength=k).clamp(min=1)
    total = torch.zeros(k, x.shape[1], dtype=torch.float64)
    for rows, label in zip(x.split(512), y.split(512), strict=True):
        total.index_add_(0, label, rows.double())
    means = total / counts[:, None]
    within = torch.zeros((), dtype=torch.float64)
    for rows, label in zip(x.split(512), y.split(512), strict=True):
        within += (rows.double() - means[label]).square().sum()
    return within
