"""Contestants of the Triton backend, and the float64 reference, for any device."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ncfast.ops import moments as passes

_BLOCK = 1 << 24  # number of entries that are converted to float64 at once


def truth(feats: Tensor, labels: Tensor, k: int) -> float:
    """Within-class sum of squares by a float64 two-pass over the stored input, in blocks."""
    rows = max(1, _BLOCK // feats.shape[1])
    blocks = list(zip(feats.split(rows), labels.split(rows), strict=True))
    sums = torch.zeros(k, feats.shape[1], dtype=torch.float64, device=feats.device)
    pivot = feats[0].double()  # a common shift keeps the means accurate enough
    for block, label in blocks:
        sums.index_add_(0, label, block.double() - pivot)
    means = pivot + sums / torch.bincount(labels, minlength=k).clamp(min=1)[:, None]
    return sum(float((b.double() - means[label]).square().sum()) for b, label in blocks)


def authors(feats: Tensor, labels: Tensor, k: int) -> Tensor:
    """E[x^2] - E[x]^2 in float32 on the whole matrix, as in published code.

    Kept as a measure of speed alone: on collapsed features its result is meaningless.
    """
    counts = torch.bincount(labels, minlength=k).clamp(min=1)[:, None]
    feats = feats.float()
    sums = feats.new_zeros(k, feats.shape[1]).index_add_(0, labels, feats)
    squares = feats.new_zeros(k, feats.shape[1]).index_add_(0, labels, feats.pow(2))
    feats.norm(dim=1).max()
    return (squares / counts - (sums / counts).pow(2)).sum(1) @ counts[:, 0].float()


def authors_batched(feats: Tensor, labels: Tensor, k: int, batch: int = 512) -> float:
    """The same in batches of 512 rows, with the host synchronisation of each."""
    return sum(
        float(authors(x, y, k))
        for x, y in zip(feats.split(batch), labels.split(batch), strict=True)
    )


def two_pass(feats: Tensor, labels: Tensor, k: int) -> Tensor:
    """Class means by index_add_, then the residuals: the usual stable form."""
    counts = torch.zeros(k, device=feats.device).index_add_(
        0, labels, torch.ones_like(labels, dtype=torch.float32)
    )
    wide = feats.float()
    means = (
        wide.new_zeros(k, wide.shape[1]).index_add_(0, labels, wide) / counts.clamp(min=1)[:, None]
    )
    residual = wide - means[labels]
    return residual.square().sum(1).sum() + wide.norm(dim=1).max()


def one_hot(feats: Tensor, labels: Tensor, k: int) -> Tensor:
    """The two-pass with sums as a product with the one-hot matrix."""
    hot = torch.nn.functional.one_hot(labels, k).to(feats.dtype)
    means = (hot.T @ feats) / hot.sum(0).clamp(min=1)[:, None]
    return (feats - means[labels]).square().sum() + feats.norm(dim=1).max()


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(two_pass, dynamic=True)  # once for all sizes: it compiles for many seconds


def compiled(feats: Tensor, labels: Tensor, k: int) -> Tensor:
    """`two_pass` by torch.compile."""
    return _compiled()(feats, labels, k)


def ncfast_reference(feats: Tensor, labels: Tensor, k: int) -> object:
    """The reference backend."""
    return passes.reference(feats, labels, k)


def contention(feats: Tensor, labels: Tensor, k: int) -> Tensor:
    """index_add_ alone, for the cost of atomics with few classes."""
    return feats.new_zeros(k, feats.shape[1]).index_add_(0, labels, feats)


REFERENCES: dict[str, Callable[[Tensor, Tensor, int], object]] = {
    "authors": authors,
    "authors_batched": authors_batched,
    "two_pass": two_pass,
    "compiled_two_pass": compiled,
    "one_hot": one_hot,
    "reference": ncfast_reference,
    "index_add": contention,
}
