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
BLOCK = 512


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
    for one, two in zip(x.split(BLOCK), y.split(BLOCK), strict=True):
        first, second = gaps(one, x, norm), gaps(two, y, norm)
        # The row itself is nearest, so its k-th neighbour has place k + 1. It also counts itself.
        radius = torch.maximum(first, second).kthvalue(k + 1, dim=1, keepdim=True).values
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
        radius = own.kthvalue(k + 1, dim=1, keepdim=True).values
        terms.append(psi((gap < radius).sum(1)) + psi(size))
    whole = psi(torch.tensor(len(z))) + psi(torch.tensor(k))
    return float(whole - torch.cat(terms).mean())


def log_radii(rows: Tensor, labels: Tensor, k: int, norm: Norm) -> Tensor:
    """Logarithms of the distances to the k-th neighbours of the own class, (N,)."""
    found = []
    for part, label in _blocks(rows, labels):
        own = torch.where(label[:, None] == labels, gaps(part, rows, norm), torch.inf)
        found.append(own.kthvalue(k + 1, dim=1).values.log())
    return torch.cat(found)


def _blocks(*columns: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(column.split(BLOCK) for column in columns), strict=True)
