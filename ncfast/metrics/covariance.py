"""NC1 from covariances: variability in the directions that separate the classes.

With M the centred (K, D) means, Sigma_B = M^T M / P has the eigenvalues sigma_r^2 / P along the
right singular vectors v_r of M, so Tr(Sigma_W pinv(Sigma_B)) = P sum_r v_r^T Sigma_W v_r /
sigma_r^2. Only the variances along the K - 1 directions v_r are needed: for K <= D no matrix of
size D x D appears. For K > D the directions are D, and their variances come from Sigma_W itself.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import Metric
from ncfast.metrics.rank import total_axes
from ncfast.ops.spectra import eigen, significant


def _ratio(inputs: MetricInputs, squares: Tensor, kept: Tensor) -> Tensor:
    """Sum over kept axes of v^T Sigma_W v / sigma_r^2; NaN with fewer than two classes.

    The P of Sigma_B and the P of the mean over classes cancel.
    """
    total = torch.where(kept, inputs.axis_variances / squares, 0.0).sum()
    return total / kept.any()  # 0 / 0 where no axis is kept


def pseudo_inverse_ratio(inputs: MetricInputs) -> Tensor:
    """Tr(Sigma_W pinv(Sigma_B)) / P."""
    if inputs.axis_sums is not None:
        return inputs.axis_sums.significant
    squares = inputs.axes.values.square()
    return _ratio(inputs, squares, significant(squares, inputs.moments.dim))


def truncated_ratio(inputs: MetricInputs) -> Tensor:
    """Tr(Sigma_W Q Lambda^-1 Q^T) / P with the top min(P - 1, D) eigenpairs of Sigma_B."""
    if inputs.axis_sums is not None:
        return inputs.axis_sums.leading
    squares = inputs.axes.values.square()
    index = torch.arange(len(squares), device=squares.device)
    return _ratio(inputs, squares, index < inputs.number - 1)


def _explained(axes: tuple[Tensor, Tensor], roots: Tensor) -> Tensor:
    """Tr(pinv(total) roots^T roots) from the eigenvalues and eigenvectors of the total."""
    values, vectors = axes
    kept = significant(values, len(values))
    strength = (roots @ vectors.T).square().sum(0)
    return torch.where(kept, strength / torch.where(kept, values, 1.0), 0.0).sum()


def bounded_ratio(inputs: MetricInputs) -> Tensor:
    """1 - Tr(pinv(Sigma_W + Sigma_B) Sigma_B) / min(D, P - 1), classes counting the same."""
    roots, between = (
        inputs.centred / inputs.number.sqrt(),
        inputs.product_of_means / inputs.number,
    )
    rank = (inputs.number - 1).clamp(max=inputs.moments.dim)
    explained = _explained(eigen(inputs.scatter + between), roots)
    return (1 - explained / rank).clamp(min=0) + inputs.nan_if_invalid


def variability_collapse_index(inputs: MetricInputs) -> Tensor:
    """1 - Tr(pinv(Sigma_T) Sigma_B) / rank(Sigma_B), samples counting the same."""
    centre = inputs.shares @ inputs.centred
    roots = (inputs.centred - centre) * inputs.shares.sqrt().unsqueeze(1)
    rank = significant(inputs.axes.values.square(), inputs.moments.dim).sum()
    explained = _explained(inputs.once(total_axes), roots)
    index = torch.where(rank > 0, (1 - explained / rank).clamp(min=0), torch.nan)
    return index + inputs.nan_if_invalid


_COLLAPSED = "0: collapsed"

_of_scatter = partial(
    Metric, tier="full", needs=frozenset({"moments", "scatter"}), synchronizes=True
)

METRICS = {
    "nc1.pinv": _of_scatter(
        pseudo_inverse_ratio,
        "Tr(Sigma_W pinv(Sigma_B)) / P, Sigma_B by class",
        "Papyan, Han & Donoho 2020",
        "[0, inf)",
        _COLLAPSED,
    ),
    "nc1.svd": _of_scatter(
        truncated_ratio,
        "Tr(Sigma_W Q L^-1 Q^T) / P, Q and L the top min(P - 1, D) eigenpairs of Sigma_B by class",
        "Han, Papyan & Donoho 2022",
        "[0, inf]",
        _COLLAPSED,
    ),
    "nc1.bounded": _of_scatter(
        bounded_ratio,
        "1 - Tr(pinv(Sigma_W + Sigma_B) Sigma_B) / min(D, P - 1), Sigma_B by class",
        "the class-weighted sibling of nc1.vci",
        "[0, 1]",
        _COLLAPSED,
        uses=frozenset({"scatter"}),
    ),
    "nc1.vci": _of_scatter(
        variability_collapse_index,
        "1 - Tr(pinv(Sigma_T) Sigma_B) / rank(Sigma_B), Sigma_B by sample",
        "Xu & Liu 2023 (variability collapse index)",
        "[0, 1]",
        _COLLAPSED,
        uses=frozenset({"scatter"}),
    ),
}
