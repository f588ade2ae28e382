"""The terms of the nearest-neighbour estimators of mutual information, one term a row.

The mean of the terms is the estimate. Every function takes checked float64 blocks.
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
    """psi(k) + psi(N) - psi(n_x + 1) - psi(n_y + 1), n strictly nearer than the k-th neighbour.

    Kraskov, Stoegbauer & Grassberger 2004, equation 8. The k - 1 nearer neighbours always count,
    also at the distance of the k-th, so that no term exceeds psi(N) - psi(k).
    """
    found = joint_radii_and_counts(blocks, k, metric=metric, labels=groups, backend=backend)
    terms = caveats.digamma(k) + psi(group_sizes(groups, blocks[0]))
    return terms - sum(psi((count + 1).clamp(min=k)) for count in found.counts), found.backend


def ksg2_terms(
    blocks: Blocks, k: int, groups: Tensor | None, metric: JointNorm, backend: str
) -> tuple[Tensor, str]:
    """psi(k) - 1/k + psi(N) - psi(n_x) - psi(n_y), n within the block's own extent.

    Kraskov, Stoegbauer & Grassberger 2004, equation 9: the neighbours' rectangle, not a square.
    """
    found = joint_radii_and_counts(
        blocks, k, metric=metric, rectangle=True, labels=groups, backend=backend
    )
    terms = caveats.digamma(k) - 1 / k + psi(group_sizes(groups, blocks[0]))
    return terms - sum(psi(count) for count in found.counts), found.backend


def mixed_terms(
    blocks: Blocks, k: int, groups: Tensor | None, metric: JointNorm, backend: str
) -> tuple[Tensor, str]:
    """KSG where one row is at the distance of the k-th neighbour, counts of all rows elsewhere.

    psi(K) + psi(N) - psi(n_x) - psi(n_y), K and n the other rows at most as far as the k-th
    neighbour, in the joint space and in each block (Mesner & Shalizi 2021, arXiv 1912.03387). They
    count so for all rows; here a row without ties keeps KSG's term, which is nearer to the truth.
    At distance 0 the row itself counts too (Gao, Kannan, Oh & Viswanath 2017, arXiv 1709.06212).
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
    """The k and n + 1 of KSG where no rows tie, elsewhere all rows at most as far.

    Args:
        k: neighbours.
        radii: (N,) distance of the k-th.
        nearer: (N,) each, rows strictly nearer in every space, and one.
        within: (N,) each, other rows at most as far: in the joint space, then in those of `nearer`.
    """
    tied = within[0] > k
    for most, strict in zip(within[1:], nearer, strict=True):
        tied = tied | (most > strict)  # without ties one row at most is at the distance
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
    """h(X) + h(Y) - h(X, Y) with one k for all; their biases do not cancel.

    `known`: the terms of h(X), where they have been computed before.
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
    """psi(k) + psi(n_z + 1) - psi(n_xz + 1) - psi(n_yz + 1), n strictly nearer than the k-th.

    All distances are maximum norms, so that a distance in (x, z) is one of a space too. The k - 1
    nearer neighbours always count, see `ksg_terms`. `mixed`: where several rows are at the distance
    of the k-th, psi(K) + psi(n_z) - psi(n_xz) - psi(n_yz), see `mixed_terms`.
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
