"""Estimators of information by their definition, from all distances, column by column.

They are the reference of the benchmarks and share no code or algorithm with a contestant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.special import digamma

Norm = Literal["l2", "linf"]
BLOCK = 1 << 17  # distances at a time: 1 MB, which caches hold


def gaps(part: Tensor, rows: Tensor, norm: Norm) -> Tensor:
    """(B, N) distances between some rows and all rows."""
    total = part.new_zeros(len(part), len(rows))
    for one, all_ in zip(part.T, rows.T, strict=True):
        gap = (one[:, None] - all_).abs_()
        if norm == "linf":
            torch.maximum(total, gap, out=total)
        else:
            total.addcmul_(gap, gap)
    return total if norm == "linf" else total.sqrt_()


def psi(counts: Tensor) -> Tensor:
    """The digamma function of integers in float64."""
    return digamma(counts.double())


def ksg(x: Tensor, y: Tensor, k: int, norm: Norm) -> float:
    """Kraskov, Stoegbauer & Grassberger 2004, equation 8, in nats."""
    terms = []
    for one, two in _blocks(x, y):
        first, second = gaps(one, x, norm), gaps(two, y, norm)
        radius = _kth(torch.maximum(first, second), k)[:, None]
        # a row also counts itself
        counts = [(gap < radius).sum(1) for gap in (first, second)]
        terms.append(psi(counts[0]) + psi(counts[1]))
    whole = psi(torch.tensor(len(x))) + psi(torch.tensor(k))
    return float(whole - torch.cat(terms).mean())


def entropy(x: Tensor, k: int, norm: Norm = "l2") -> float:
    """h(X), Kozachenko & Leonenko 1987, in nats."""
    dim = x.shape[1]
    ball = dim * math.log(2)  # log volume of the unit ball, a cube in the maximum norm
    if norm == "l2":
        ball = dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)
    radii = log_radii(x, torch.zeros(len(x)), k, norm)
    whole = psi(torch.tensor(len(x))) - psi(torch.tensor(k))
    return float(whole + ball + dim * radii.mean())


def ross(z: Tensor, labels: Tensor, k: int) -> float:
    """I(Z;Y), Ross 2014, in nats, by Euclidean distances; every class has more than k members."""
    terms = []
    sizes = torch.bincount(labels)[labels]
    for part, label, size in _blocks(z, labels, sizes):
        gap = gaps(part, z, "l2")
        own = torch.where(label[:, None] == labels, gap, torch.inf)
        radius = _kth(own, k)[:, None]
        terms.append(psi((gap < radius).sum(1)) + psi(size))
    whole = psi(torch.tensor(len(z))) + psi(torch.tensor(k))
    return float(whole - torch.cat(terms).mean())


def log_radii(rows: Tensor, labels: Tensor, k: int, norm: Norm) -> Tensor:
    """Logarithms of the distances to the k-th neighbours of the own class, (N,)."""
    found = []
    for part, label in _blocks(rows, labels):
        own = torch.where(label[:, None] == labels, gaps(part, rows, norm), torch.inf)
        found.append(_kth(own, k).log())
    return torch.cat(found)


def _kth(distances: Tensor, k: int) -> Tensor:
    """(B,) distances to the k-th neighbour; the row itself is nearest, so it has place k + 1."""
    return distances.topk(k + 1, dim=1, largest=False).values[:, -1]


def _blocks(*columns: Tensor) -> Iterator[tuple[Tensor, ...]]:
    rows = max(1, BLOCK // len(columns[0]))
    return zip(*(column.split(rows) for column in columns), strict=True)
