"""Spectra of the within-class and between-class covariance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ncfast._arrays import Array
from ncfast.metrics.arguments import as_inputs, check_not_moments
from ncfast.ops.grouping import Labels
from ncfast.ops.spectra import eigenvalues


class Spectra(NamedTuple):
    """Eigenvalues, largest first."""

    within: Tensor  # (D,) of Sigma_W
    between: Tensor  # (min(K, D),) of Sigma_B, classes counting the same; the others are zero


@torch.no_grad()
def spectra(
    feats: Array,
    labels: Labels | None = None,
    *,
    num_classes: int | None = None,
    backend: str = "auto",
) -> Spectra:
    """Eigenvalues of Sigma_W = E[(g - mu_c)(g - mu_c)^T] and of Sigma_B, largest first.

    Args:
        feats: (N, D) features in any floating dtype; not `ClassMoments`, which hold no covariance.
        labels: (N,) integer class indices, or their `plan`.
        num_classes: K; None reads it off the labels, which synchronises with an accelerator.
        backend: see `class_moments`.

    Returns:
        Spectra(within (D,), between (min(K, D),)), float64. Tr(Sigma_W) is the sum of the first.
        Detached from the graph.

    Raises:
        ValueError, TypeError: see `class_moments`.

    Example:
        >>> import torch, ncfast
        >>> feats = torch.tensor([[1.0, 0.0], [1.0, 2.0], [-1.0, 0.0], [-1.0, 2.0]])
        >>> found = ncfast.spectra(feats, torch.tensor([0, 0, 1, 1]))
        >>> [round(v, 9) for v in found.within.tolist() + found.between.tolist()]
        [1.0, 0.0, 1.0, 0.0]
    """
    check_not_moments(feats, "spectra")
    inputs = as_inputs(feats, labels, num_classes=num_classes, backend=backend)
    within = eigenvalues(inputs.scatter)
    return Spectra(within, inputs.axes.values.square() / inputs.number)
