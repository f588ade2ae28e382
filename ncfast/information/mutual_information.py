"""Mutual information of two continuous or mixed variables by nearest neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ncfast._arrays import Array
from ncfast.information import caveats, signals
from ncfast.information.caveats import psi
from ncfast.information.duplicates import PairDuplicates, multiplicity, resolve_blocks
from ncfast.information.entropy import Norm, group_sizes, kl_terms
from ncfast.information.errors import jackknife_stderr
from ncfast.information.estimate import Estimate, announce
from ncfast.information.neighbors import joint_radii_and_counts, knn, range_count
from ncfast.information.preprocess import Preprocess, common_unit, transform
from ncfast.information.samples import as_samples, check_choice, check_k, check_same
from ncfast.information.ties import Found, Sample, by_point, copied, counted_sample, mostly_counted

Method = Literal["ksg", "ksg2", "kl", "mixed"]
AnyMethod = Literal["auto"] | Method
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


ESTIMATORS = {
    "ksg": ksg_terms,
    "ksg2": ksg2_terms,
    "kl": three_entropy_terms,
    "mixed": mixed_terms,
}


@torch.no_grad()
def mutual_information(
    x: Array,
    y: Array,
    *,
    k: int = 5,
    method: AnyMethod = "auto",
    metric: JointNorm = "l2max",
    preprocess: Preprocess | Literal["auto"] = "auto",
    duplicates: PairDuplicates = "auto",
    stderr: bool = True,
    backend: str = "auto",
    generator: torch.Generator | None = None,
) -> Estimate:
    """Mutual information I(X;Y) in nats, by k-th neighbours in the joint space.

    Args:
        x: (N, dx) or (N,) samples: a tensor of any real dtype and device, or a NumPy array.
        y: (N, dy) or (N,) samples; row i of both is the same sample.
        k: neighbours.
        method: "auto" takes continuous, discrete and mixed columns. A row that occurs more than k
            times gets psi(m) + psi(N) - psi(m_x) - psi(m_y) of its multiplicities; every other row
            gets its term of "ksg" after independent noise of a thousandth of the smallest gap in
            each column that holds equal values. "ksg" is the first estimator of Kraskov,
            Stoegbauer & Grassberger 2004, whose biases cancel; "ksg2" their second, with the
            neighbours' rectangle; "mixed" counts ties (Gao et al. 2017; Mesner & Shalizi 2021);
            "kl" is h(X) + h(Y) - h(X, Y), whose biases do not cancel: it can be nats below zero.
        metric: joint distance, the maximum over the two blocks of their Euclidean ("l2max") or
            maximum norm ("linf") distances. For "kl", the norm of all three spaces.
        preprocess: "rank", normal scores of each column, which heavy tails and monotone
            transformations leave as they are (equal values share their mean rank); "standardize"
            each column, the better choice for clusters; None takes rows as they are. "auto" is
            "rank", and "standardize" for "kl", because the entropy of evenly spread ranks is off.
        duplicates: rows equal in x and y. "auto" leaves them to the method; "warn" does so with a
            warning; "drop" keeps the first of equal rows; "jitter" adds noise of 1e-10 standard
            deviations to all columns first; "error" refuses equal rows.
        stderr: False saves the standard error, and of the comparisons below all but the first.
        backend: see `ncfast.information.neighbors.knn`.
        generator: for the noise of "auto" and "jitter", on the device of `x`; None takes a private
            one with a fixed seed.

    Returns:
        `Estimate`; its `method` says whether "auto" used neighbours ("ksg"), multiplicities
        ("counts") or both ("ksg+counts"). It warns near the ceiling psi(N) - psi(k), of constant
        columns, of equal values where the method takes them for a density, and where it is less
        than Gaussians with the same canonical correlations of normal scores share
        (`details["gaussian"]`), less than the distances of x and y from their centres share
        (`details["radii"]`, `["squares"]`), or changes at four times the neighbours
        (`details["wider"]`). At most 10,000 rows are looked at for that.

    Raises:
        TypeError, ValueError: wrong types or shapes, lengths that differ, NaN, k not in 1..N-1, an
            unknown option.

    Example:
        >>> import torch, ncfast
        >>> draw = torch.Generator().manual_seed(0)
        >>> z, e = torch.randn(2, 2000, generator=draw, dtype=torch.float64)
        >>> found = ncfast.mutual_information(z, 0.6 * z + 0.8 * e)
        >>> abs(found.value + 0.5 * torch.tensor(1 - 0.6**2).log().item()) < 3 * found.stderr
        True
    """
    given = {"x": as_samples("x", x), "y": as_samples("y", y)}
    check_same(**given)
    check_choice("method", method, (*ESTIMATORS, "auto"))
    check_choice("metric", metric, ("l2max", "linf"))
    count = len(given["x"])
    k = check_k(k, count)
    handled = method in ("auto", "mixed")
    name_doubts = caveats.constants if handled else caveats.atoms
    doubts = [text for name, rows in given.items() for text in name_doubts(name, rows)]
    raw, repeats = resolve_blocks(list(given.values()), duplicates, generator)
    doubts += caveats.duplicates(repeats, count)
    k = check_k(k, len(raw[0]))
    if preprocess == "auto":
        preprocess = "standardize" if method == "kl" else "rank"
    blocks = [transform(rows, preprocess) for rows in raw]
    if preprocess is None:
        blocks = common_unit(blocks)
    if method == "auto":
        sample = counted_sample(raw, blocks, preprocess, generator)
    else:
        sample = Sample(tuple(blocks), preprocess)
    found = measure(sample, k, method, metric, stderr=stderr, backend=backend, doubts=doubts)
    return announce(found)


def terms_at(
    sample: Sample,
    rows: Tensor | None,
    k: int,
    method: AnyMethod,
    metric: JointNorm,
    backend: str,
    copies: int | None = None,
) -> Found:
    """Terms of the estimate on some rows, whose columns are transformed again; None means all.

    `copies`: above how many "auto" counts equal rows; k by default.
    """

    def search() -> tuple[Tensor, str]:
        estimator = ESTIMATORS["ksg" if method == "auto" else method]
        return estimator(sample.at(rows), k, None, metric, backend)

    if method == "auto":
        return by_point(sample.cells, rows, copies or k, search)
    return Found(*search(), method)


def measure(
    sample: Sample,
    k: int,
    method: AnyMethod,
    metric: JointNorm,
    *,
    stderr: bool,
    backend: str,
    doubts: list[str],
    known: Tensor | None = None,
    compare: bool = True,
) -> Estimate:
    """`mutual_information` of blocks that have been prepared, without raising its warnings.

    `known`: see `three_entropy_terms`. `compare`: doubt what is below the Gaussian reference, which
    means nothing for rows that lie in clusters.
    """
    blocks = sample.blocks
    count = len(blocks[0])

    # rows that are counted do not depend on k: few copies would look like a trend at 4 k
    copies = k if mostly_counted(sample.cells, k) else None

    def at(rows: Tensor, neighbours: int = k) -> float:
        found = terms_at(sample, rows, neighbours, method, metric, backend, copies)
        return float(found.terms.mean())

    if known is None:
        found = terms_at(sample, None, k, method, metric, backend)
    else:
        found = Found(*three_entropy_terms(blocks, k, None, metric, backend, known), method)
    value = float(found.terms.mean())
    error = jackknife_stderr(at, count, k) if stderr else math.nan
    details = {"gaussian": math.nan}
    if compare:
        details = signals.pair_signals(blocks, at if stderr else None, k, backend)
    doubts = [*doubts, *tie_doubts(sample, found.method, value, k)]
    doubts += signals.doubts(value, error, count, k, details)
    doubts += caveats.not_finite(value)
    doubts += caveats.no_stderr(error, count, k) if stderr else []
    dims = tuple(block.shape[1] for block in blocks)
    return Estimate(
        value,
        error,
        count,
        k,
        found.method,
        dims,
        found.backend,
        tuple(doubts),
        details,
    )


def tie_doubts(sample: Sample, method: str, value: float, k: int) -> list[str]:
    """What equal rows mean for the method; near the ceiling without them."""
    count = len(sample.blocks[0])
    if method in ("ksg", "ksg2") and sample.cells is None:
        equal = multiplicity(torch.cat(sample.blocks, 1))
        texts = caveats.coincident(int((equal > k).sum()), count, k)
        return texts or caveats.ceiling(value, count, k)
    doubts = [] if method == "counts" else caveats.ceiling(value, count, k)
    if doubts or sample.cells is None:
        return doubts
    return caveats.copies(copied(sample.cells, k), count)
