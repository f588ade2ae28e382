"""NC2: how close the class means are to an orthogonal frame or to a simplex ETF."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ncfast._validate import labels_are_on_host
from ncfast.metrics._axes import nonzero_singular, ratio_of_ends, singular_values
from ncfast.metrics._condition import condition
from ncfast.metrics._evidence import Evidence
from ncfast.metrics._metric import Metric, of_moments
from ncfast.metrics._simplex import cosine_deviation, etf_distance, mean_cosine
from ncfast.moments import ClassMoments


def condition_number(moments: ClassMoments) -> Tensor:
    """Condition number of the (P, D) matrix of uncentred means of the P present classes."""
    if not labels_are_on_host(moments.means):
        return condition(moments.means, moments.present, moments.norm_mean)
    # absent classes are zero rows: they only append zero singular values
    singular = nonzero_singular(
        singular_values(moments.means), max(moments.means.shape), moments.norm_mean
    )
    return _condition_of(singular, moments.present.sum())


def centred_condition_number(evidence: Evidence) -> Tensor:
    """Largest over (P - 1)-th singular value of the centred means: one is a simplex frame."""
    if not labels_are_on_host(evidence.centred):
        moments = evidence.moments
        return condition(evidence.centred, moments.present, moments.norm_mean, centred=True)
    return _condition_of(evidence.axes.values, evidence.moments.present.sum() - 1)


def _condition_of(singular: Tensor, rank: Tensor) -> Tensor:
    """Largest over the rank-th of the singular values, NaN for rank zero."""
    rank = rank.clamp(max=len(singular))
    smallest = singular.gather(0, (rank - 1).clamp(min=0).reshape(1)).squeeze(0)
    return torch.where(rank > 0, ratio_of_ends(singular.amax(), smallest), torch.nan)


def relative_deviation(norms: Tensor, present: Tensor) -> Tensor:
    """Population standard deviation over mean of the norms (K,) of present classes."""
    number = present.sum()
    mean = torch.where(present, norms, 0.0).sum() / number
    deviation = torch.where(present, norms - mean, 0.0)
    return (deviation.square().sum() / number).sqrt() / mean


def equinorm(moments: ClassMoments) -> Tensor:
    """Population standard deviation over mean of norm(mu_c - m), m the mean of class means."""
    norms = torch.linalg.vector_norm(moments.centred_means, dim=1)
    return torch.where(
        moments.present.sum() > 1, relative_deviation(norms, moments.present), torch.nan
    )


def etf_error(evidence: Evidence) -> Tensor:
    """norm_F(G / norm_F(G) - E): Gram matrix of the centred means against the simplex ETF."""
    return etf_distance(
        evidence.centred,
        evidence.centred,
        evidence.moments.present,
        lambda: (evidence.product_of_means, evidence.product_of_means),
    )


def _etf_error_raw(evidence: Evidence) -> Tensor:
    return etf_distance(evidence.moments.means, evidence.moments.means, evidence.moments.present)


def _weight_rows(evidence: Evidence, *, centred: bool) -> Tensor:
    """Classifier rows of present classes, zero elsewhere; centred on their own mean or not."""
    present, rows = evidence.moments.present.unsqueeze(1), evidence.rows_present
    return torch.where(present, rows - rows.sum(0) / evidence.number, 0.0) if centred else rows


def _weight_etf(*, centred: bool) -> Callable[[Evidence], Tensor]:
    def function(evidence: Evidence) -> Tensor:
        rows = _weight_rows(evidence, centred=centred)
        shared = None if centred else (lambda: (evidence.product_of_rows,) * 2)
        return etf_distance(rows, rows, evidence.moments.present, shared) + evidence.poison

    return function


def _weight_equinorm(evidence: Evidence) -> Tensor:
    norms = torch.linalg.vector_norm(_weight_rows(evidence, centred=False), dim=1)
    spread = relative_deviation(norms, evidence.moments.present)
    return torch.where(evidence.number > 1, spread, torch.nan) + evidence.poison


def _unit(evidence: Evidence) -> Tensor:
    present = evidence.moments.present.unsqueeze(1)
    return torch.where(present, evidence.centred / evidence.norms.unsqueeze(1), 0.0)


def _cosine_mean(evidence: Evidence) -> Tensor:
    return mean_cosine(_unit(evidence), evidence.number)


def _cosine_std(evidence: Evidence) -> Tensor:
    return cosine_deviation(_unit(evidence), evidence.moments.present)


_PAPYAN = "Papyan, Han & Donoho 2020"
_ZHU = f"{_PAPYAN}; Zhu et al. 2021"
_ETF = "0: simplex ETF"
_E = "E = (I - 11^T/P) / sqrt(P - 1)"

METRICS = {
    "nc2.condition": Metric(
        of_moments(condition_number),
        "sigma_max / sigma_min of the (P, D) uncentred means",
        "Sakamoto & Sato 2025, arXiv 2509.20829",
        "[1, inf]",
        "1: orthogonal frame of equal norms",
        tier="full",
    ),
    "nc2.condition_centred": Metric(
        centred_condition_number,
        "sigma_1 / sigma_(min(P - 1, D)) of the means centred on m",
        "nc2.condition after centring",
        "[1, inf]",
        "1: simplex ETF",
        tier="full",
    ),
    "nc2.equinorm": Metric(
        of_moments(equinorm),
        "std_c / mean_c of norm(mu_c - m), population form",
        _PAPYAN,
        "[0, inf)",
        "0: equal norms",
    ),
    "nc2.equinorm_weight": Metric(
        _weight_equinorm,
        "std_c / mean_c of norm(w_c), population form",
        _PAPYAN,
        "[0, inf)",
        "0: equal norms",
        needs=("weight",),
    ),
    "nc2.etf_error": Metric(
        etf_error,
        f"norm_F(G / norm_F(G) - E), G the Gram matrix of the mu_c - m, {_E}",
        _ZHU,
        "[0, 2]",
        _ETF,
        tier="standard",
    ),
    "nc2.etf_error_raw": Metric(
        _etf_error_raw,
        f"norm_F(G / norm_F(G) - E), G the Gram matrix of the mu_c, {_E}",
        _ZHU,
        "[0, 2]",
        _ETF,
        tier="standard",
    ),
    "nc2.etf_error_weight": Metric(
        _weight_etf(centred=True),
        f"norm_F(G / norm_F(G) - E), G the Gram matrix of the w_c minus their mean, {_E}",
        _ZHU,
        "[0, 2]",
        _ETF,
        tier="standard",
        needs=("weight",),
    ),
    "nc2.etf_error_weight_raw": Metric(
        _weight_etf(centred=False),
        f"norm_F(G / norm_F(G) - E), G the Gram matrix of the w_c, {_E}",
        _ZHU,
        "[0, 2]",
        _ETF,
        tier="standard",
        needs=("weight",),
    ),
    "nc2.cosine_mean": Metric(
        _cosine_mean,
        "mean over pairs of cos(mu_c - m, mu_k - m)",
        _PAPYAN,
        "[-1/(P - 1), 1]",
        "-1/(P - 1): simplex ETF",
    ),
    "nc2.cosine_std": Metric(
        _cosine_std,
        "population std over pairs of cos(mu_c - m, mu_k - m)",
        _PAPYAN,
        "[0, 1]",
        "0: all angles equal, as in a simplex ETF",
        tier="standard",
    ),
}
