"""Mutual information of two continuous, discrete or mixed variables by nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ncfast.information.dependence import AnyMethod, Search, measure, prepare
from ncfast.information.duplicates import PairDuplicates
from ncfast.information.estimate import Estimate, announce
from ncfast.information.estimators import ESTIMATORS, JointNorm, three_entropy_terms
from ncfast.information.preprocess import Preprocess
from ncfast.information.samples import Array, as_samples, check_choice, check_same
from ncfast.information.signals import pair_signals
from ncfast.information.ties import Found, Sample


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
    if preprocess == "auto":
        preprocess = "standardize" if method == "kl" else "rank"
    sample, k, doubts = prepare(given, k, method, preprocess, duplicates, generator)
    return announce(
        estimate(sample, k, method, metric, stderr=stderr, backend=backend, doubts=doubts)
    )


def searching(method: AnyMethod, metric: JointNorm, backend: str) -> Search:
    """The terms of blocks by an estimator; "auto" takes those of "ksg"."""
    estimator = ESTIMATORS["ksg" if method == "auto" else method]
    return lambda blocks, k: estimator(blocks, k, None, metric, backend)


def estimate(
    sample: Sample,
    k: int,
    method: AnyMethod,
    metric: JointNorm,
    *,
    stderr: bool,
    backend: str,
    doubts: Sequence[str] = (),
    known: Tensor | None = None,
    compare: bool = True,
) -> Estimate:
    """`mutual_information` of a prepared sample. It raises no warnings.

    Args:
        sample: the prepared sample.
        k: number of neighbours.
        method: the estimator.
        metric: joint distance.
        stderr: whether to compute the standard error.
        backend: engine of the neighbour search.
        doubts: earlier doubts, which come first.
        known: the terms of h(X), for method "kl"; see `three_entropy_terms`.
        compare: whether to compare the estimate with the Gaussian one and the other signals. They
            mean nothing for rows that lie in clusters.
    """
    found = None
    if known is not None:
        terms, engine = three_entropy_terms(sample.blocks, k, None, metric, backend, known)
        found = Found(terms, engine, method)
    return measure(
        sample,
        k,
        method,
        searching(method, metric, backend),
        pair_signals if compare else None,
        stderr=stderr,
        backend=backend,
        doubts=doubts,
        found=found,
    )
