"""Conditional mutual information by nearest neighbours (Frenzel & Pompe 2007)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ncfast._arrays import Array
from ncfast.information import signals
from ncfast.information.dependence import measure, prepare
from ncfast.information.duplicates import PairDuplicates
from ncfast.information.estimate import Estimate, announce
from ncfast.information.estimators import conditional_terms
from ncfast.information.preprocess import Preprocess
from ncfast.information.samples import as_samples, check_choice, check_same

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
        k: number of neighbours.
        method: "auto" handles continuous, discrete and mixed columns. The term of a row (x, y, z)
            that occurs more than k times is psi(m) + psi(m_z) - psi(m_xz) - psi(m_yz), where m are
            the multiplicities of the row and of its parts. The term of any other row is that of
            "ksg", after equal values have been separated by noise, see `mutual_information`.
            "ksg" is the estimator of Frenzel & Pompe. "mixed" counts ties (Mesner & Shalizi 2021).
        preprocess: "standardize", "rank" or None, see `mutual_information`.
        duplicates: policy for rows that are equal in x, y and z, see `mutual_information`.
        stderr: False skips the standard error and the second of the comparisons below.
        backend: see `ncfast.information.neighbors.knn`.
        generator: source of the noise of "auto" and "jitter", on the device of `x`; None takes a
            private one with a fixed seed.

    Returns:
        `Estimate`. With "auto" its `method` is "ksg", "counts" or "ksg+counts". It warns near the
        largest possible value psi(N) - psi(k), of constant columns, and of equal values if the
        method assumes a density. The bias is towards zero and grows with the columns of `z`. The
        estimate therefore also warns if Gaussians share more given z (`details["gaussian"]`), and
        if it changes with four times the neighbours (`details["wider"]`).

    Raises:
        TypeError, ValueError: see `mutual_information`.

    Example:
        >>> import torch, ncfast
        >>> z, a, b = torch.randn(3, 2000, generator=torch.Generator().manual_seed(0))
        >>> chain = ncfast.conditional_mutual_information(z + a, z + b, z)  # z alone links them
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
        signals.conditional_signals,
        stderr=stderr,
        backend=backend,
        doubts=doubts,
    )
    return announce(found)
