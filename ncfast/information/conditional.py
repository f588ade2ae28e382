"""Conditional mutual information by nearest neighbours (Frenzel & Pompe 2007)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ncfast.information import caveats
from ncfast.information.caveats import psi
from ncfast.information.errors import subsampled_stderr
from ncfast.information.estimate import Estimate, announce
from ncfast.information.neighbors import knn, range_count
from ncfast.information.preprocess import Preprocess, transform
from ncfast.information.samples import Array, as_samples, check_k, check_same


def conditional_terms(
    x: Tensor, y: Tensor, z: Tensor, k: int, groups: Tensor | None, backend: str
) -> tuple[Tensor, str]:
    """psi(k) + psi(n_z + 1) - psi(n_xz + 1) - psi(n_yz + 1), n strictly nearer than the k-th.

    All distances are maximum norms, so that a distance in (x, z) is one of a space too.
    """
    found = knn(torch.cat((x, y, z), 1), k, metric="linf", labels=groups, backend=backend)
    radius = found.distances[:, k - 1]

    def psi_inside(*blocks: Tensor) -> Tensor:
        rows = torch.cat(blocks, 1)
        inside = range_count(rows, radius, metric="linf", labels=groups, backend=backend)
        return psi(inside + 1)

    terms = psi_inside(z) - psi_inside(x, z) - psi_inside(y, z) + caveats.digamma(k)
    return terms, found.backend


@torch.no_grad()
def conditional_mutual_information(
    x: Array,
    y: Array,
    z: Array,
    *,
    k: int = 5,
    preprocess: Preprocess = "standardize",
    stderr: bool = True,
    backend: str = "auto",
) -> Estimate:
    """Conditional mutual information I(X;Y|Z) in nats (Frenzel & Pompe 2007), maximum norm.

    Args:
        x: (N, dx) or (N,) samples: a tensor of any real dtype and device, or a NumPy array.
        y: (N, dy) or (N,) samples.
        z: (N, dz) or (N,) samples of the condition. For class labels see `label_information`.
        k: neighbours.
        preprocess: see `mutual_information`.
        stderr: False saves the standard error.
        backend: see `ncfast.information.neighbors.knn`.

    Returns:
        `Estimate`. It warns near the ceiling psi(N) - psi(k), of atoms and constant columns. The
        bias is towards zero, more so with many columns of `z`.

    Raises:
        TypeError, ValueError: see `mutual_information`.

    Example:
        >>> import torch, ncfast
        >>> z, a, b = torch.randn(3, 2000, generator=torch.Generator().manual_seed(0))
        >>> chain = ncfast.conditional_mutual_information(z + a, z + b, z)  # only z links them
        >>> abs(chain.value) < 0.05
        True
    """
    blocks = [as_samples(name, value) for name, value in (("x", x), ("y", y), ("z", z))]
    check_same(x=blocks[0], y=blocks[1], z=blocks[2])
    count = len(blocks[0])
    k = check_k(k, count)
    doubts = [
        text for name, rows in zip("xyz", blocks, strict=True) for text in caveats.atoms(name, rows)
    ]
    one, two, given = (transform(rows, preprocess) for rows in blocks)

    def local(index: Tensor, groups: Tensor) -> Tensor:
        return conditional_terms(one[index], two[index], given[index], k, groups, backend)[0]

    terms, engine = conditional_terms(one, two, given, k, None, backend)
    value = float(terms.mean())
    error = subsampled_stderr(local, count, k + 1, one.device) if stderr else math.nan
    doubts += caveats.ceiling(value, count, k)
    doubts += caveats.no_stderr(error) if stderr else []
    dims = tuple(rows.shape[1] for rows in blocks)
    return announce(Estimate(value, error, count, k, "frenzel-pompe", dims, engine, tuple(doubts)))
