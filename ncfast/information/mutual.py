"""Mutual information of two continuous, discrete or mixed variables by nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ncfast._arrays import Array
from ncfast.information import signals
from ncfast.information.dependence import AnyMethod, Search, measure, prepare
from ncfast.information.duplicates import PairDuplicates
from ncfast.information.estimate import Estimate, announce
from ncfast.information.estimators import ESTIMATORS, JointNorm, three_entropy_terms
from ncfast.information.preprocess import Preprocess
from ncfast.information.samples import as_samples, check_choice, check_same
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
        k: number of neighbours.
        method: the estimator.

            - "auto" handles continuous, discrete and mixed columns. The term of a row that occurs
              more than k times is psi(m) + psi(N) - psi(m_x) - psi(m_y), where m are the
              multiplicities of the row and of its parts. The term of any other row is that of
              "ksg" on columns whose equal values are separated by independent noise, of a
              thousandth of the smallest gap between the values of the column.
            - "ksg" is the first estimator of Kraskov, Stoegbauer & Grassberger 2004, whose biases
              cancel. "ksg2" is their second one, with the rectangle of the neighbours.
            - "mixed" counts ties (Gao et al. 2017; Mesner & Shalizi 2021).
            - "kl" is h(X) + h(Y) - h(X, Y). Its biases do not cancel: it can be far below zero.
        metric: joint distance, the maximum over the two blocks of their Euclidean ("l2max") or
            maximum norm ("linf") distances. For "kl", the norm of all three spaces.
        preprocess: transformation of each column.

            - "rank" takes normal scores. They do not depend on heavy tails or on monotone
              transformations of the column. Equal values share their mean rank.
            - "standardize" is the better choice for clusters.
            - None leaves the columns as they are.
            - "auto" is "rank"; for "kl" it is "standardize", because "kl" is biased on ranks.
        duplicates: policy for rows equal in x and y. "auto" leaves them to the method. "warn" does
            the same and warns. "drop" keeps the first of equal rows. "jitter" first adds noise of
            1e-10 standard deviations to all columns. "error" refuses equal rows.
        stderr: False skips the standard error and all but the first of the comparisons below.
        backend: see `ncfast.information.neighbors.knn`.
        generator: source of the noise of "auto" and "jitter", on the device of `x`; None takes a
            private one with a fixed seed.

    Returns:
        `Estimate`. With "auto" its `method` tells whether neighbours ("ksg"), multiplicities
        ("counts") or both ("ksg+counts") were used. It warns near the largest possible value
        psi(N) - psi(k), of constant columns, and of equal values if the method assumes a density.
        It also compares the estimate with three numbers, on at most 10,000 rows, and warns if

        - Gaussians with the same canonical correlations of normal scores share more
            (`details["gaussian"]`);
        - the distances of x and y from their centres share more
            (`details["radii"]`, `details["squares"]`);
        - the estimate changes with four times the neighbours (`details["wider"]`).

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
        signals.pair_signals if compare else None,
        stderr=stderr,
        backend=backend,
        doubts=doubts,
        found=found,
    )
