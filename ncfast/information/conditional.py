"""Conditional mutual information by nearest neighbours (Frenzel & Pompe 2007)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ncfast.information.dependence import measure, prepare
from ncfast.information.duplicates import PairDuplicates
from ncfast.information.estimate import Estimate, announce
from ncfast.information.estimators import conditional_terms
from ncfast.information.preprocess import Preprocess
from ncfast.information.samples import Array, as_samples, check_choice, check_same
from ncfast.information.signals import conditional_signals

Method = Literal["auto", "ksg", "mixed"]


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
    sample, k, doubts = prepare(given, k, method, preprocess, duplicates, generator)

    def search(blocks: list[Tensor], k: int) -> tuple[Tensor, str]:
        return conditional_terms(blocks, k, backend, mixed=method == "mixed")

    found = measure(
        sample,
        k,
        method,
        search,
        conditional_signals,
        stderr=stderr,
        backend=backend,
        doubts=doubts,
    )
    return announce(found)
