"""Metrics that are averages over pairs of classes: CDNV, angles and hyperspherical energies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import Metric
from ncfast.moments import ClassMoments


def statistic(inputs: MetricInputs, quantity: str, name: str) -> Tensor:
    """The mean, variance or maximum of a pair quantity, (...)."""
    value: Tensor = getattr(inputs.pair(quantity), name)
    return value


def cdnv_matrix(moments: ClassMoments, exponent: float = 1.0) -> Tensor:
    """(K, K) of (V_c + V_k) / (2 norm(mu_c - mu_k)^(2 exponent)); NaN where undefined.

    NaN on the diagonal and in the rows and columns of absent classes.
    """
    means = moments.centred_means
    distance = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist")
    variances = moments.class_variances
    ratio = (variances.unsqueeze(1) + variances) / (2 * distance.pow(2 * exponent))
    pairs = moments.present.unsqueeze(1) & moments.present
    return torch.where(pairs, ratio, torch.nan).fill_diagonal_(torch.nan)


def over_pairs(matrix: Tensor, present: Tensor, reduction: Literal["mean", "max"]) -> Tensor:
    """Mean or maximum of a (K, K) matrix over pairs of different present classes; NaN if none."""
    pairs = (present.unsqueeze(1) & present).fill_diagonal_(False)
    if reduction == "mean":
        return torch.where(pairs, matrix, 0.0).sum() / pairs.sum()
    largest = torch.where(pairs, matrix, -torch.inf).amax()
    return torch.where(pairs.any(), largest, torch.nan)


def _entry(
    quantity: str,
    name: Literal["mean", "variance", "maximum"],
    formula: str,
    source: str,
    range_: str,
    direction: str,
) -> Metric:
    function: Callable[[MetricInputs], Tensor] = partial(statistic, quantity=quantity, name=name)
    uses = frozenset({f"pairs.{quantity}"})
    return Metric(function, formula, source, range_, direction, tier="full", uses=uses)


_GALANTI = "Galanti, György & Hutter 2021"
_PAPYAN = "Papyan, Han & Donoho 2020"
_ENERGY = "Liu et al. 2023, arXiv 2303.06484 (generalised neural collapse)"
_CDNV = "(V_c + V_k) / (2 norm(mu_c - mu_k)^2)"
_ETF = "smallest at a simplex ETF when K <= D + 1"
_SPREAD = "0: all distances equal, as in a simplex ETF"
_U = "u_c = (mu_c - m) / norm(mu_c - m)"

METRICS = {
    "nc1.cdnv": _entry(
        "cdnv", "mean", f"mean over pairs of {_CDNV}", _GALANTI, "[0, inf]", "0: collapsed"
    ),
    "nc1.cdnv_max": _entry(
        "cdnv", "maximum", f"largest over pairs of {_CDNV}", _GALANTI, "[0, inf]", "0: collapsed"
    ),
    "nc2.equiangular": _entry(
        "angle",
        "mean",
        "mean over pairs of abs(cos(mu_c - m, mu_k - m) + 1/(P - 1))",
        _PAPYAN,
        "[0, 2]",
        "0: simplex ETF",
    ),
    "nc2.coherence": _entry(
        "coherence",
        "maximum",
        "largest over pairs of abs(cos(mu_c - m, mu_k - m))",
        "mutual coherence of a frame; Welch 1974",
        "[0, 1]",
        "1/(P - 1): simplex ETF",
    ),
    "nc2.distance": _entry(
        "distance",
        "mean",
        f"mean over pairs of norm(u_c - u_k), {_U}",
        _ENERGY,
        "[0, 2]",
        "largest at a simplex ETF when K <= D + 1",
    ),
    "nc2.distance_var": _entry(
        "distance",
        "variance",
        f"population variance over pairs of norm(u_c - u_k), {_U}",
        _ENERGY,
        "[0, 1]",
        _SPREAD,
    ),
    "nc2.log_energy": _entry(
        "log",
        "mean",
        f"mean over pairs of -log norm(u_c - u_k), {_U}",
        _ENERGY,
        "[-log 2, inf]",
        _ETF,
    ),
    "nc2.log_energy_var": _entry(
        "log",
        "variance",
        f"population variance over pairs of -log norm(u_c - u_k), {_U}",
        _ENERGY,
        "[0, inf]",
        _SPREAD,
    ),
    "nc2.riesz_energy": _entry(
        "riesz",
        "mean",
        f"mean over pairs of 1 / norm(u_c - u_k), {_U}",
        f"{_ENERGY}; Riesz exponent 1",
        "[0.5, inf]",
        _ETF,
    ),
    "nc2.riesz_energy_var": _entry(
        "riesz",
        "variance",
        f"population variance over pairs of 1 / norm(u_c - u_k), {_U}",
        f"{_ENERGY}; Riesz exponent 1",
        "[0, inf]",
        _SPREAD,
    ),
}
