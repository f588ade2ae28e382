"""Estimators of mutual information by nearest neighbours, each as one term per row.

The estimate is the mean of the terms. The functions take blocks of float64 columns that have been
checked, and search within `groups` if these are given. They return the terms (N,) and the name of
the engine that found the neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ncfast.information import caveats
from ncfast.information.caveats import psi
from ncfast.information.differential_entropy import Norm, group_sizes, kl_terms
from ncfast.information.neighbors import joint_radii_and_counts, knn, range_count

Method = Literal["ksg", "ksg2", "kl", "mixed"]
JointNorm = Literal["l2max", "linf"]
Blocks = Sequence[Tensor]


def ksg_terms(
    blocks: Blocks, k: int, groups: Tensor | None, metric: JointNorm, backend: str
) -> tuple[Tensor, str]:
    """psi(k) + psi(N) - psi(n_x + 1) - psi(n_y + 1): KSG-1.

    n_x and n_y are the numbers of rows that are strictly nearer in x or y than the k-th neighbour
    in the joint space (Kraskov, Stoegbauer & Grassberger 2004, equation 8). They are at least
    k - 1, even if several neighbours have the same distance. No term exceeds psi(N) - psi(k).
    """
    found = joint_radii_and_counts(blocks, k, metric=metric, labels=groups, backend=backend)
    terms = caveats.digamma(k) + psi(group_sizes(groups, blocks[0]))
    return terms - sum(psi((count + 1).clamp(min=k)) for count in found.counts), found.backend


def ksg2_terms(
    blocks: Blocks, k: int, groups: Tensor | None, metric: JointNorm, backend: str
) -> tuple[Tensor, str]:
    """psi(k) - 1/k + psi(N) - psi(n_x) - psi(n_y): KSG-2.

    n_x and n_y are the numbers of rows at most as far as the k neighbours extend in x or y alone
    (Kraskov, Stoegbauer & Grassberger 2004, equation 9).
    """
    found = joint_radii_and_counts(
        blocks, k, metric=metric, rectangle=True, labels=groups, backend=backend
    )
    terms = caveats.digamma(k) - 1 / k + psi(group_sizes(groups, blocks[0]))
    return terms - sum(psi(count) for count in found.counts), found.backend


def mixed_terms(
    blocks: Blocks, k: int, groups: Tensor | None, metric: JointNorm, backend: str
) -> tuple[Tensor, str]:
    """KSG-1 for rows without ties; psi(K) + psi(N) - psi(n_x) - psi(n_y) for rows with ties.

    A row has ties if several rows are at the distance of its k-th neighbour. K, n_x and n_y are the
    numbers of other rows at most that far, in the joint space and in each block (Mesner & Shalizi
    2021, arXiv 1912.03387, who use this term for every row; KSG-1 is closer to the true value
    without ties). At distance 0 they include the row itself (Gao, Kannan, Oh & Viswanath 2017,
    arXiv 1709.06212).
    """
    norm: Norm = "linf" if metric == "linf" else "l2"
    found = joint_radii_and_counts(blocks, k, metric=metric, labels=groups, backend=backend)
    within = [
        range_count(block, found.radii, metric=norm, strict=False, labels=groups, backend=backend)
        for block in blocks
    ]
    nearer = [count.clamp(min=k - 1) + 1 for count in found.counts]
    joint, margins = counts_of_ties(k, found.radii, nearer, (found.ties, *within))
    terms = psi(joint) + psi(group_sizes(groups, blocks[0]))
    return terms - sum(psi(count) for count in margins), found.backend


def counts_of_ties(
    k: int, radii: Tensor, nearer: Sequence[Tensor], within: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """K and n + 1 of KSG-1 for rows without ties, the numbers of `mixed_terms` for the others.

    Args:
        k: number of neighbours.
        radii: (N,) distance of the k-th neighbour.
        nearer: for each space (N,), one plus the number of rows strictly nearer than `radii`.
        within: (N,) the number of other rows at most as far as `radii`, first in the joint space,
            then in the spaces of `nearer`.
    """
    tied = within[0] > k
    for most, strict in zip(within[1:], nearer, strict=True):
        tied = tied | (most > strict)  # without ties at most one row is at that distance
    alone = (radii == 0).to(torch.int64)  # the row itself
    counts = [
        torch.where(tied, most + alone, strict)
        for most, strict in zip(within[1:], nearer, strict=True)
    ]
    return torch.where(tied, within[0] + alone, k), counts


def three_entropy_terms(
    blocks: Blocks,
    k: int,
    groups: Tensor | None,
    metric: JointNorm,
    backend: str,
    known: Tensor | None = None,
) -> tuple[Tensor, str]:
    """h(X) + h(Y) - h(X, Y), all with the same k. Their biases do not cancel.

    `known`: the terms of h(X), if they have been computed before.
    """
    norm: Norm = "linf" if metric == "linf" else "l2"

    def terms(rows: Tensor) -> tuple[Tensor, str]:
        found = knn(rows, k, metric=norm, labels=groups, backend=backend)
        return kl_terms(rows, k, groups, norm, found), found.backend

    joint, engine = terms(torch.cat(tuple(blocks), 1))
    first = terms(blocks[0])[0] if known is None else known
    return first + terms(blocks[1])[0] - joint, engine


def conditional_terms(
    blocks: Sequence[Tensor], k: int, backend: str, *, mixed: bool = False
) -> tuple[Tensor, str]:
    """psi(k) + psi(n_z + 1) - psi(n_xz + 1) - psi(n_yz + 1), of blocks x, y and z.

    n are the numbers of rows strictly nearer than the k-th neighbour, at least k - 1, as in
    `ksg_terms`. All distances are maximum norms, so one radius applies in (x, z), (y, z) and z.

    `mixed`: psi(K) + psi(n_z) - psi(n_xz) - psi(n_yz) for rows with ties, as in `mixed_terms`.
    """
    x, y, z = blocks
    spaces = [torch.cat(parts, 1) for parts in ((z,), (x, z), (y, z), (x, y, z))]
    found = knn(spaces[3], k, metric="linf", backend=backend)
    radius = found.distances[:, k - 1]

    def inside(rows: Tensor, strict: bool) -> Tensor:
        return range_count(rows, radius, metric="linf", strict=strict, backend=backend)

    nearer = [inside(rows, True).clamp(min=k - 1) + 1 for rows in spaces[:3]]
    joint = torch.full_like(nearer[0], k)
    if mixed:
        within = [inside(rows, False) for rows in (spaces[3], *spaces[:3])]
        joint, nearer = counts_of_ties(k, radius, nearer, within)
    terms = psi(joint) + psi(nearer[0]) - (psi(nearer[1]) + psi(nearer[2]))
    return terms, found.backend


ESTIMATORS = {
    "ksg": ksg_terms,
    "ksg2": ksg2_terms,
    "kl": three_entropy_terms,
    "mixed": mixed_terms,
}
