"""Conditional mutual information by nearest neighbours (Frenzel & Pompe 2007)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ncfast._arrays import Array
from ncfast.information import caveats, signals
from ncfast.information.caveats import psi
from ncfast.information.duplicates import PairDuplicates, resolve_blocks
from ncfast.information.errors import jackknife_stderr
from ncfast.information.estimate import Estimate, announce
from ncfast.information.mutual_information import counts_of_ties, tie_doubts
from ncfast.information.neighbors import knn, range_count
from ncfast.information.preprocess import Preprocess, common_unit, transform
from ncfast.information.samples import as_samples, check_choice, check_k, check_same
from ncfast.information.ties import Found, Sample, by_point, counted_sample, mostly_counted

Method = Literal["auto", "ksg", "mixed"]


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


@torch.no_grad()
def conditional_mutual_information(
    x: Array,
    y: Array,
    z: Array,
    *,
    k: int = 5,
    method: Method = "auto",
    preprocess: Preprocess = "standardize",
    duplicates: PairDuplicates = "auto",
    stderr: bool = True,
    backend: str = "auto",
    generator: torch.Generator | None = None,
) -> Estimate:
    """Conditional mutual information I(X;Y|Z) in nats (Frenzel & Pompe 2007), maximum norm.

    Args:
        x: (N, dx) or (N,) samples: a tensor of any real dtype and device, or a NumPy array.
        y: (N, dy) or (N,) samples.
        z: (N, dz) or (N,) samples of the condition. For class labels see `label_information`.
        k: neighbours.
        method: "auto" takes continuous, discrete and mixed columns. A row (x, y, z) that occurs
            more than k times gets psi(m) + psi(m_z) - psi(m_xz) - psi(m_yz) of its multiplicities;
            every other row gets its term of "ksg" after independent noise, see
            `mutual_information`. "ksg" is the estimator of Frenzel & Pompe; "mixed" counts ties
            (Mesner & Shalizi 2021).
        preprocess: "standardize", "rank" or None, see `mutual_information`.
        duplicates: rows equal in x, y and z, see `mutual_information`.
        stderr: False saves the standard error, and the second of the comparisons below.
        backend: see `ncfast.information.neighbors.knn`.
        generator: for the noise of "auto" and "jitter", on the device of `x`; None takes a private
            one with a fixed seed.

    Returns:
        `Estimate`; its `method` is "ksg", "counts" or "ksg+counts" after "auto". It warns near the
        ceiling psi(N) - psi(k), of constant columns, and of equal values where the method takes
        them for a density. The bias is towards zero, more so with many columns of `z`: it warns
        where it is less than Gaussians share given z (`details["gaussian"]`), or changes at four
        times the neighbours (`details["wider"]`).

    Raises:
        TypeError, ValueError: see `mutual_information`.

    Example:
        >>> import torch, ncfast
        >>> z, a, b = torch.randn(3, 2000, generator=torch.Generator().manual_seed(0))
        >>> chain = ncfast.conditional_mutual_information(z + a, z + b, z)  # only z links them
        >>> abs(chain.value) < 0.05
        True
    """
    given = {name: as_samples(name, value) for name, value in (("x", x), ("y", y), ("z", z))}
    check_same(**given)
    check_choice("method", method, ("ksg", "mixed", "auto"))
    count = len(given["x"])
    k = check_k(k, count)
    name_doubts = caveats.atoms if method == "ksg" else caveats.constants
    doubts = [text for name, rows in given.items() for text in name_doubts(name, rows)]
    raw, repeats = resolve_blocks(list(given.values()), duplicates, generator)
    doubts += caveats.duplicates(repeats, count)
    count = len(raw[0])
    k = check_k(k, count)
    blocks = [transform(rows, preprocess) for rows in raw]
    if preprocess is None:
        blocks = common_unit(blocks)
    if method == "auto":
        sample = counted_sample(raw, blocks, preprocess, generator)
    else:
        sample = Sample(tuple(blocks), preprocess)

    copies = k if mostly_counted(sample.cells, k) else None  # as in `mutual_information`

    def at(rows: Tensor, neighbours: int = k) -> float:
        return float(terms_at(sample, rows, neighbours, method, backend, copies).terms.mean())

    found = terms_at(sample, None, k, method, backend)
    value = float(found.terms.mean())
    error = jackknife_stderr(at, count, k) if stderr else math.nan
    details = signals.conditional_signals(sample.blocks, at if stderr else None, k, backend)
    doubts += tie_doubts(sample, found.method, value, k)
    doubts += signals.doubts(value, error, count, k, details)
    doubts += caveats.no_stderr(error, count, k) if stderr else []
    dims = tuple(rows.shape[1] for rows in blocks)
    return announce(
        Estimate(value, error, count, k, found.method, dims, found.backend, tuple(doubts), details)
    )


def terms_at(
    sample: Sample,
    rows: Tensor | None,
    k: int,
    method: Method,
    backend: str,
    copies: int | None = None,
) -> Found:
    """Terms of the estimate on some rows, whose columns are transformed again; None means all.

    `copies`: above how many "auto" counts equal rows; k by default.
    """

    def search() -> tuple[Tensor, str]:
        return conditional_terms(sample.at(rows), k, backend, mixed=method == "mixed")

    if method == "auto":
        return by_point(sample.cells, rows, copies or k, search)
    return Found(*search(), method)
