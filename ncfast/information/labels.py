"""Mutual information of continuous features and class labels by neighbours (Ross 2014)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ncfast._arrays import Array
from ncfast.information import caveats
from ncfast.information.caveats import psi
from ncfast.information.differential_entropy import Norm, group_sizes
from ncfast.information.discrete import plugin_entropy
from ncfast.information.duplicates import multiplicity
from ncfast.information.errors import LIMIT, jackknife_stderr
from ncfast.information.estimate import Estimate, announce
from ncfast.information.neighbors import knn, range_count
from ncfast.information.preprocess import (
    Preprocess,
    power_of_two,
    standard_deviations,
    standardize,
    transform,
)
from ncfast.information.samples import as_classes, as_samples, check_choice, check_k, check_same
from ncfast.information.signals import label_signal
from ncfast.ops.grouping import Labels

Method = Literal["ross", "entropies"]
MEMBERS = 5  # mean samples per class below which the standard error is far too large
Again = Callable[[Tensor, Tensor], float]


def label_terms(
    rows: Tensor, classes: Tensor, k: int, method: Method, metric: Norm, backend: str
) -> tuple[Tensor, str]:
    """(N,) terms of the estimate, NaN for the only member of a class; and the engine's name."""
    kept = torch.bincount(classes)[classes] > 1
    out = torch.full_like(rows[:, 0], torch.nan)
    if not bool(kept.any()):
        return out, ""
    part = rows[kept]
    cell = torch.unique(classes[kept], return_inverse=True)[1]
    found = knn(part, k, metric=metric, labels=cell, backend=backend)
    sizes = torch.bincount(cell)[cell]
    rank = (sizes - 1).clamp(max=k)  # a small class has fewer than k neighbours
    radius = found.distances.gather(1, (rank - 1).unsqueeze(1)).squeeze(1)
    if method == "ross":
        # Rows of the own class strictly inside the radius, and the row itself. This is the rank
        # unless distances are equal.
        nearer = (found.distances < radius.unsqueeze(1)).sum(1) + 1
        terms = _ross(part, radius, nearer, cell, metric, backend)
    else:
        terms = psi(rank) + _entropies(part, radius, k, metric, backend)
    out[kept] = terms - psi(sizes)
    return out, found.backend


def _ross(
    rows: Tensor, radius: Tensor, nearer: Tensor, cell: Tensor, metric: Norm, backend: str
) -> Tensor:
    """psi(N) + psi(k) - psi(m), m the rows of any class strictly inside the radius, plus one.

    Where the radius is 0 (equal rows), k and m count equal rows (the rule of Gao et al. 2017).
    """
    inside = range_count(rows, radius, metric=metric, backend=backend) + 1
    repeated = radius == 0
    if bool(repeated.any()):
        nearer = torch.where(repeated, multiplicity(rows, cell), nearer)
        inside = torch.where(repeated, multiplicity(rows), inside)
    return psi(group_sizes(None, rows)) + psi(nearer) - psi(inside)


def _entropies(rows: Tensor, radius: Tensor, k: int, metric: Norm, backend: str) -> Tensor:
    """h(Z) - h(Z|Y) without the terms of the class sizes; the volume of the ball cancels."""
    everyone = knn(rows, k, metric=metric, backend=backend).distances[:, k - 1]
    ratio = rows.shape[1] * (everyone.log() - radius.log())
    return psi(group_sizes(None, rows)) - caveats.digamma(k) + ratio


@torch.no_grad()
def label_information(
    z: Array,
    labels: Labels,
    *,
    k: int = 5,
    method: Method = "ross",
    metric: Norm = "l2",
    clip: bool = False,
    preprocess: Preprocess = None,
    stderr: bool = True,
    backend: str = "auto",
) -> Estimate:
    """Mutual information I(Z;Y) in nats of features and class labels.

    Args:
        z: (N, d) or (N,) features: a tensor of any real dtype and device, or a NumPy array.
        labels: (N,) integers of any kind; they need not be consecutive.
        k: number of neighbours within the class; a class of n <= k members uses n - 1.
        method: "ross": psi(N) - <psi(N_y)> + <psi(k_y)> - <psi(m)>, where m is the number of
            samples within the distance of the k-th neighbour of the own class (Ross 2014).
            "entropies": h(Z) - h(Z|Y). The biases of its two entropies differ and do not cancel in
            many dimensions.
        metric: "l2" Euclidean or "linf" maximum norm.
        clip: clip the value to [0, H(Y)].
        preprocess: see `mutual_information`; None keeps the geometry of the features.
        stderr: False skips the standard error.
        backend: see `ncfast.information.neighbors.knn`.

    Returns:
        `Estimate`; `details["label_entropy"]` is H(Y), which the true value cannot exceed. It
        warns in these cases:

        - classes with a single member, which are left out, and classes too small for k;
        - a single class, for which the value is zero;
        - rows equal to k others of their class, which "ross" counts as atoms ("entropies" gives NaN
            or infinity);
        - a column with more than 100 times the spread of another, if standardized columns give
            more;
        - a larger value from three linear directions that were fitted to the other half of the rows
            (skipped with `stderr=False`).

    Raises:
        TypeError, ValueError: wrong types or shapes, lengths that differ, NaN, k not in 1..N-1, no
            class with two members, an unknown option.

    Example:
        >>> import torch, ncfast
        >>> labels = torch.arange(600) % 3
        >>> z = labels.float() + 1e-3 * torch.rand(600, generator=torch.Generator().manual_seed(0))
        >>> round(ncfast.label_information(z, labels).value, 2)  # ln 3
        1.1
    """
    check_choice("method", method, ("ross", "entropies"))
    check_choice("metric", metric, ("l2", "linf"))
    rows, classes = as_samples("z", z), as_classes("labels", labels)
    check_same(z=rows, labels=classes)
    k = check_k(k, len(rows))
    rows = transform(rows, preprocess)
    rows = rows / power_of_two(rows)
    found = measure(
        rows, classes, k, method, metric, preprocess, stderr=stderr, backend=backend, clip=clip
    )

    def again(rows: Tensor, classes: Tensor) -> float:
        return float(label_terms(rows, classes, k, method, metric, backend)[0].nanmean())

    doubts = _hidden(found, rows, classes, again)
    if stderr:
        directions = label_signal(rows, classes, again)
        doubts += caveats.missed_directions(found.value, found.stderr, directions)
    return announce(replace(found, warnings=(*found.warnings, *doubts)))


def _hidden(found: Estimate, rows: Tensor, classes: Tensor, again: Again) -> list[str]:
    spread = standard_deviations(rows)
    times = float(spread.max() / spread[spread > 0].min()) if bool(spread.any()) else 1.0
    if not times > caveats.WIDE:
        return []
    standardized = again(standardize(rows), classes)
    return caveats.hidden_columns(found.value, found.stderr, standardized, times)


def measure(
    rows: Tensor,
    classes: Tensor,
    k: int,
    method: Method = "ross",
    metric: Norm = "l2",
    preprocess: Preprocess = None,
    *,
    stderr: bool,
    backend: str,
    clip: bool = False,
) -> Estimate:
    """`label_information` of prepared rows. It raises no warnings.

    `preprocess`: transformation to repeat on subsets of the rows.
    """
    counts = torch.bincount(classes)
    kept = int(counts[counts > 1].sum())
    if kept == 0:
        raise ValueError(
            "Expected argument `labels` to have a class with two members but got "
            f"{len(classes)} labels that are all different. Pass class indices, not row numbers."
        )

    def at(index: Tensor) -> float:
        part = transform(rows[index], preprocess)
        terms = label_terms(part, classes[index], k, method, metric, backend)[0]
        return float(terms.nanmean())

    terms, engine = label_terms(rows, classes, k, method, metric, backend)
    value, limit = float(terms.nanmean()), plugin_entropy(classes)
    if clip:
        value = min(max(value, 0.0), limit)
    most = max(LIMIT, 4 * k * len(counts))  # enough rows of each class
    error = math.nan
    if stderr and len(rows) >= MEMBERS * len(counts):
        error = jackknife_stderr(at, len(rows), k, most)
    doubts = _doubts(counts, k) + _atoms(rows, classes, k, method)
    doubts += caveats.not_finite(value)
    doubts += _no_stderr(error, len(rows), len(counts), k) if stderr else []
    return Estimate(
        value,
        error,
        kept,
        k,
        method,
        (rows.shape[1],),
        engine,
        tuple(doubts),
        {"label_entropy": limit, "dropped": float(len(rows) - kept)},
    )


def _no_stderr(error: float, samples: int, classes: int, k: int) -> list[str]:
    if samples >= MEMBERS * classes:
        return caveats.no_stderr(error, samples, k)
    return [
        f"No standard error: {samples} samples of {classes} classes are fewer than {MEMBERS} per "
        "class."
    ]


def _doubts(counts: Tensor, k: int) -> list[str]:
    singles, small = int((counts == 1).sum()), int(((counts > 1) & (counts <= k)).sum())
    texts = []
    if len(counts) == 1:
        texts.append("All labels are equal: they hold no information.")
    if singles:
        texts.append(f"{singles} classes with a single member were left out.")
    if small:
        texts.append(f"{small} classes have at most k = {k} members and use fewer neighbours.")
    return texts


def _atoms(rows: Tensor, classes: Tensor, k: int, method: Method) -> list[str]:
    found = int((multiplicity(rows, classes) > k).sum())
    if not found:
        return []
    how = "they are counted as atoms" if method == "ross" else "they have no density"
    return [f"{found} of {len(rows)} rows equal k = {k} others of their class: {how}."]
