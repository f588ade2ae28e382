"""How many directions the features, or their class means, really use."""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import Metric
from ncfast.ops.spectra import eigen, eigenvalues, significant
from ncfast.ops.summary import norm_of


def total_covariance(inputs: MetricInputs) -> Tensor:
    """Sigma_T = Sigma_W + sum_c (n_c/N)(mu_c - mu_G)(mu_c - mu_G)^T, (D, D)."""
    centre = inputs.shares @ inputs.centred
    roots = (inputs.centred - centre) * inputs.shares.sqrt().unsqueeze(1)
    return torch.addmm(inputs.scatter, roots.T, roots)


def second_moment(inputs: MetricInputs) -> Tensor:
    """(1/N) sum_i g_i g_i^T, (D, D): Sigma_W plus the means, a sum of positive terms."""
    roots = inputs.moments.means * inputs.shares.sqrt().unsqueeze(1)
    return torch.addmm(inputs.scatter, roots.T, roots)


def _moment_spectrum(inputs: MetricInputs) -> Tensor:
    return eigenvalues(second_moment(inputs))


def total_axes(inputs: MetricInputs) -> tuple[Tensor, Tensor]:
    """Variances (D,), largest first, and principal components in rows (D, D) of the features."""
    return eigen(total_covariance(inputs))


def entropy_rank(singular: Tensor) -> Tensor:
    """Exponential entropy of the normalised singular values (..., R)."""
    share = singular / singular.sum(-1, keepdim=True)
    logarithm = torch.where(share > 0, share, 1.0).log()  # that of zero has no gradient
    return (-share * logarithm).sum(-1).exp()


def _effective(inputs: MetricInputs) -> Tensor:
    squares = inputs.once(_moment_spectrum)
    singular = torch.where(significant(squares, inputs.moments.dim), squares.sqrt(), 0.0)
    return entropy_rank(singular) + 0 * squares.sum()


def _effective_means(inputs: MetricInputs) -> Tensor:
    return entropy_rank(inputs.singular_values)


def _participation(inputs: MetricInputs) -> Tensor:
    covariance = total_covariance(inputs)
    return (covariance.trace() / norm_of(covariance, (-2, -1))).square()


def _participation_means(inputs: MetricInputs) -> Tensor:
    return (inputs.gram.trace / inputs.gram.norm).square()


def _stable(inputs: MetricInputs) -> Tensor:
    squares = inputs.once(_moment_spectrum)
    return squares.sum() / squares.amax()


def _stable_means(inputs: MetricInputs) -> Tensor:
    values = inputs.singular_values
    return (values / values.narrow(-1, 0, 1)).square().sum(-1)


_RANKME = "Roy & Vetterli 2007; Garrido et al. 2023 (RankMe)"
_STABLE = "Rudelson & Vershynin 2007"
_DIRECTION = "P - 1 or P at collapse, min(N, D) when spread evenly"
_MEANS = "P - 1: simplex ETF"
_ENTROPY = "exp(-sum_r p_r log p_r), p_r = sigma_r / sum sigma, of"
_SCATTER = frozenset({"moments", "scatter"})

METRICS = {
    "rank.effective": Metric(
        _effective,
        f"{_ENTROPY} the (N, D) features, uncentred",
        _RANKME,
        "[1, min(N, D)]",
        _DIRECTION,
        tier="full",
        needs=_SCATTER,
        uses=frozenset({"scatter"}),
        synchronizes=True,
    ),
    "rank.effective_means": Metric(
        _effective_means,
        f"{_ENTROPY} the centred means",
        _RANKME,
        "[1, min(P - 1, D)]",
        _MEANS,
        tier="full",
        synchronizes=True,
        uses=frozenset({"centred_spectrum"}),
    ),
    "rank.participation": Metric(
        _participation,
        "Tr(Sigma_T)^2 / norm_F(Sigma_T)^2, Sigma_T the total covariance",
        "participation ratio of the principal variances",
        "[1, min(N - 1, D)]",
        _DIRECTION,
        tier="full",
        needs=_SCATTER,
        uses=frozenset({"scatter"}),
    ),
    "rank.participation_means": Metric(
        _participation_means,
        "Tr(Sigma_B)^2 / norm_F(Sigma_B)^2, Sigma_B by class",
        "participation ratio of the principal variances",
        "[1, min(P - 1, D)]",
        _MEANS,
        tier="standard",
        uses=frozenset({"products"}),
    ),
    "rank.stable": Metric(
        _stable,
        "norm_F(X)^2 / sigma_max(X)^2 of the (N, D) features, uncentred",
        _STABLE,
        "[1, min(N, D)]",
        _DIRECTION,
        tier="full",
        needs=_SCATTER,
        uses=frozenset({"scatter"}),
        synchronizes=True,
    ),
    "rank.stable_means": Metric(
        _stable_means,
        "norm_F(M)^2 / sigma_max(M)^2 of the centred means",
        _STABLE,
        "[1, min(P - 1, D)]",
        _MEANS,
        tier="full",
        synchronizes=True,
        uses=frozenset({"centred_spectrum"}),
    ),
}
