"""Mutual information of two continuous or mixed variables by nearest neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ncfast.information import caveats
from ncfast.information.caveats import psi
from ncfast.information.duplicates import Duplicates, jitter, multiplicity, resolve
from ncfast.information.entropy import Norm, group_sizes, kl_terms
from ncfast.information.errors import subsampled_stderr
from ncfast.information.estimate import Estimate, announce
from ncfast.information.gaussian import canonical_information
from ncfast.information.neighbors import joint_radii_and_counts, knn
from ncfast.information.preprocess import Preprocess, normal_scores, transform
from ncfast.information.samples import Array, as_samples, check_choice, check_k, check_same

Method = Literal["ksg", "ksg2", "kl", "mixed"]
JointNorm = Literal["l2max", "linf"]
Blocks = Sequence[Tensor]


def ksg_terms(
    blocks: Blocks, k: int, groups: Tensor | None, metric: JointNorm, backend: str
) -> tuple[Tensor, str]:
    """psi(k) + psi(N) - psi(n_x + 1) - psi(n_y + 1), n strictly nearer than the k-th neighbour.

    Kraskov, Stoegbauer & Grassberger 2004, equation 8.
    """
    found = joint_radii_and_counts(blocks, k, metric=metric, labels=groups, backend=backend)
    terms = caveats.digamma(k) + psi(group_sizes(groups, blocks[0]))
    return terms - sum(psi(count + 1) for count in found.counts), found.backend


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
    """KSG where the k-th neighbour is away, and counts of equal rows where it is on the spot.

    Gao, Kannan, Oh & Viswanath 2017, arXiv 1709.06212, with psi(N) for their ln N, which makes it
    the same as KSG on continuous data.
    """
    found = joint_radii_and_counts(blocks, k, metric=metric, labels=groups, backend=backend)
    sizes = group_sizes(groups, blocks[0])
    terms = caveats.digamma(k) + psi(sizes) - sum(psi(count + 1) for count in found.counts)
    if bool((found.radii == 0).any()):
        equal = psi(multiplicity(torch.cat(tuple(blocks), 1), groups)) + psi(sizes)
        equal = equal - sum(psi(multiplicity(block, groups)) for block in blocks)
        terms = torch.where(found.radii == 0, equal, terms)
    return terms, found.backend


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
    method: Method = "ksg",
    metric: JointNorm = "l2max",
    preprocess: Preprocess = "standardize",
    duplicates: Duplicates = "warn",
    stderr: bool = True,
    backend: str = "auto",
    generator: torch.Generator | None = None,
) -> Estimate:
    """Mutual information I(X;Y) in nats, by k-th neighbours in the joint space.

    Args:
        x: (N, dx) or (N,) samples: a tensor of any real dtype and device, or a NumPy array.
        y: (N, dy) or (N,) samples; row i of both is the same sample.
        k: neighbours.
        method: "ksg", the first estimator of Kraskov, Stoegbauer & Grassberger 2004, whose biases
            cancel; "ksg2", their second with the neighbours' rectangle; "mixed", which also takes
            atoms and discrete variables (Gao et al. 2017); "kl", h(X) + h(Y) - h(X, Y), whose
            biases do not cancel: it can be nats below zero.
        metric: joint distance, the maximum over the two blocks of their Euclidean ("l2max") or
            maximum norm ("linf") distances. For "kl", the norm of all three spaces.
        preprocess: "standardize" each column, which makes the estimate independent of units;
            "rank", normal scores of each column, against heavy tails; None takes rows as they are.
        duplicates: rows equal in x and y: "warn", "drop", "jitter" (1e-10 standard deviations),
            "error".
        stderr: False saves the standard error.
        backend: see `ncfast.information.neighbors.knn`.
        generator: for "jitter"; None takes a private one with a fixed seed.

    Returns:
        `Estimate`. It warns near the ceiling psi(N) - psi(k), of atoms and constant columns, and
        where Gaussians with the same canonical correlations of normal scores share more than the
        estimate (`details["gaussian"]`, NaN with fewer than ten samples a column).

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
    first, second = as_samples("x", x), as_samples("y", y)
    check_same(x=first, y=second)
    check_choice("method", method, tuple(ESTIMATORS))
    check_choice("metric", metric, ("l2max", "linf"))
    k = check_k(k, len(first))
    doubts = caveats.atoms("x", first) + caveats.atoms("y", second) if method != "mixed" else []
    first, second, repeats = _resolve_pair(first, second, duplicates, generator)
    k = check_k(k, len(first))
    blocks = (transform(first, preprocess), transform(second, preprocess))
    if method != "mixed":
        doubts += caveats.duplicates(repeats, len(first))
    found = measure(blocks, k, method, metric, stderr=stderr, backend=backend, doubts=doubts)
    return announce(found)


def _resolve_pair(
    x: Tensor, y: Tensor, duplicates: Duplicates, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, int]:
    _, kept, repeats = resolve(torch.cat((x, y), 1), duplicates, generator)
    if duplicates == "jitter":
        return jitter(x, generator), jitter(y, generator), repeats
    if kept is not None:
        x, y = x[kept], y[kept]
    return x, y, repeats


def measure(
    blocks: Blocks,
    k: int,
    method: Method,
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
    count = len(blocks[0])
    estimator = ESTIMATORS[method]

    def local(index: Tensor, groups: Tensor) -> Tensor:
        return estimator([block[index] for block in blocks], k, groups, metric, backend)[0]

    if known is None:
        terms, engine = estimator(blocks, k, None, metric, backend)
    else:
        terms, engine = three_entropy_terms(blocks, k, None, metric, backend, known)
    value = float(terms.mean())
    error = subsampled_stderr(local, count, k + 1, blocks[0].device) if stderr else math.nan
    gaussian = reference(blocks[0], blocks[1]) if compare else math.nan
    doubts = [*doubts, *caveats.ceiling(value, count, k)]
    doubts += caveats.missed(value, error, gaussian) if compare else []
    doubts += caveats.not_finite(value)
    doubts += caveats.no_stderr(error) if stderr else []
    dims = tuple(block.shape[1] for block in blocks)
    return Estimate(
        value, error, count, k, method, dims, engine, tuple(doubts), {"gaussian": gaussian}
    )


def reference(x: Tensor, y: Tensor) -> float:
    """Gaussian information of the blocks' normal scores, NaN with too few samples for it.

    With Gaussian columns, of all pairs with the same correlation a Gaussian pair shares least: of
    one column a side this is a lower bound, but not of clusters in several.
    """
    if len(x) < 10 * (x.shape[1] + y.shape[1]):
        return math.nan
    return canonical_information(normal_scores(x), normal_scores(y))
