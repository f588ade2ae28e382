"""How many directions the features, or their class means, really use."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import Metric
from ncfast.ops.spectra import eigen, eigenvalues, entropy_rank, significant
from ncfast.ops.summary import norm_of

_FLOOR = 1e-7  # what RankMe and LiDAR add to every share


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


def _effective(inputs: MetricInputs) -> Tensor:
    squares = inputs.once(_moment_spectrum)
    singular = torch.where(significant(squares, inputs.moments.dim), squares.sqrt(), 0.0)
    return entropy_rank(singular) + 0 * squares.sum()


def entropy_rank_with_floor(values: Tensor, number: Tensor | int) -> Tensor:
    """Exponential entropy of shares (..., R) that are raised by `_FLOOR`, of the first ``number``.

    The shares then sum to more than one, as in the papers that define it so.
    """
    share = values / values.sum(-1, keepdim=True) + _FLOOR
    rank = torch.arange(values.shape[-1], device=values.device)
    return torch.where(rank < number, torch.special.entr(share), 0.0).sum(-1).exp()


def _rankme(inputs: MetricInputs) -> Tensor:
    squares = inputs.once(_moment_spectrum)
    singular = torch.where(significant(squares, inputs.moments.dim), squares.sqrt(), 0.0)
    return entropy_rank_with_floor(singular, inputs.total) + 0 * squares.sum()


class _Line(NamedTuple):
    """A line through log eigenvalues over log ranks, by least squares."""

    slope: Tensor
    error: Tensor  # root mean square of the residuals


def _decay(inputs: MetricInputs) -> _Line:
    """The fit of alpha-ReQ to all nonzero eigenvalues of Sigma_T; NaN with fewer than two."""
    values = inputs.once(total_axes)[0]
    kept = significant(values, len(values))
    number = kept.sum()
    height = torch.where(kept, values, 1.0).log()
    rank = torch.arange(1, len(values) + 1, dtype=values.dtype, device=values.device).log()
    rank = torch.where(kept, rank - (rank * kept).sum() / number, 0.0)
    height = torch.where(kept, height - height.sum() / number, 0.0)
    slope = (rank * height).sum() / rank.square().sum()
    rest = torch.where(kept, height - slope * rank, 0.0).square().sum() / number
    undefined = 0 * values.sum()
    return _Line(slope + undefined, rest.sqrt() + undefined)


def _alpha(inputs: MetricInputs) -> Tensor:
    return -inputs.once(_decay).slope


def _alpha_error(inputs: MetricInputs) -> Tensor:
    return inputs.once(_decay).error


def _effective_means(inputs: MetricInputs) -> Tensor:
    return inputs.ranks_of_means.effective


def _participation(inputs: MetricInputs) -> Tensor:
    covariance = total_covariance(inputs)
    return (covariance.trace() / norm_of(covariance, (-2, -1))).square()


def _participation_means(inputs: MetricInputs) -> Tensor:
    return (inputs.gram.trace / inputs.gram.norm).square()


def _stable(inputs: MetricInputs) -> Tensor:
    squares = inputs.once(_moment_spectrum)
    return squares.sum() / squares.amax()


def _stable_means(inputs: MetricInputs) -> Tensor:
    return inputs.ranks_of_means.stable


_ALPHA = "Agrawal et al. 2022 (alpha-ReQ), arXiv 2202.05808"
_RANKME = "Roy & Vetterli 2007; Garrido et al. 2023 (RankMe)"
_STABLE = "Rudelson & Vershynin 2007"
_DIRECTION = "P - 1 or P at collapse, min(N, D) when spread evenly"
_MEANS = "P - 1: simplex ETF"
_ENTROPY = "exp(-sum_r p_r log p_r), p_r = sigma_r / sum sigma, of"
_SCATTER = frozenset({"moments", "scatter"})

_of_scatter = partial(
    Metric, tier="full", needs=_SCATTER, uses=frozenset({"scatter"}), synchronizes=True
)

_of_means = partial(Metric, tier="full", uses=frozenset({"centred_spectrum"}), synchronizes=True)

METRICS = {
    "rank.effective": _of_scatter(
        _effective,
        f"{_ENTROPY} the (N, D) features, uncentred",
        _RANKME,
        "[1, min(N, D)]",
        _DIRECTION,
    ),
    "rank.effective_means": _of_means(
        _effective_means,
        f"{_ENTROPY} the centred means",
        _RANKME,
        "[1, min(P - 1, D)]",
        _MEANS,
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
    "rank.rankme": _of_scatter(
        _rankme,
        f"exp(-sum_r p_r log p_r), p_r = sigma_r / sum sigma + {_FLOOR}, r up to min(N, D), of the "
        "(N, D) features, uncentred",
        "Garrido et al. 2023 (RankMe), arXiv 2210.02885",
        "[1, min(N, D)]",
        _DIRECTION,
    ),
    "rank.alpha_req": _of_scatter(
        _alpha,
        "alpha of the least-squares line log lambda_r = b - alpha log r, lambda_r > 0 of Sigma_T",
        _ALPHA,
        "[0, inf)",
        "near 1: said to generalise best; larger: few directions",
    ),
    "rank.alpha_req_error": _of_scatter(
        _alpha_error,
        "root mean square of the residuals of the line of rank.alpha_req, in log lambda",
        _ALPHA,
        "[0, inf)",
        "0: a power law",
    ),
    "rank.stable": _of_scatter(
        _stable,
        "norm_F(X)^2 / sigma_max(X)^2 of the (N, D) features, uncentred",
        _STABLE,
        "[1, min(N, D)]",
        _DIRECTION,
    ),
    "rank.stable_means": _of_means(
        _stable_means,
        "norm_F(M)^2 / sigma_max(M)^2 of the centred means",
        _STABLE,
        "[1, min(P - 1, D)]",
        _MEANS,
    ),
}
