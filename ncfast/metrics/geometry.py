"""NC2: how close the class means are to an orthogonal frame or to a simplex ETF."""

from __future__ import annotations

from torch import Tensor

from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import Metric
from ncfast.ops.summary import Spread, root


def _relative_deviation(norms: Spread) -> Tensor:
    return root(norms.variance) / norms.mean


def equinorm(inputs: MetricInputs) -> Tensor:
    """Population standard deviation over mean of norm(mu_c - m), m the mean of class means."""
    return _relative_deviation(inputs.mean_norm)


def equinorm_weight(inputs: MetricInputs) -> Tensor:
    """Population standard deviation over mean of norm(w_c)."""
    return _relative_deviation(inputs.rows.norm)


def etf_error(inputs: MetricInputs) -> Tensor:
    """norm_F(G / norm_F(G) - E): Gram matrix of the centred means against the simplex ETF."""
    return inputs.gram.simplex_distance


def etf_error_raw(inputs: MetricInputs) -> Tensor:
    """The same for the Gram matrix of the means."""
    return inputs.gram_raw.simplex_distance


def etf_error_weight(inputs: MetricInputs) -> Tensor:
    """The same for the classifier's rows, centred on their own mean."""
    return inputs.row_products.gram.simplex_distance


def etf_error_weight_raw(inputs: MetricInputs) -> Tensor:
    """The same for the classifier's rows as they are."""
    return inputs.row_products.gram_raw.simplex_distance


_CLASSIFIER = frozenset({"moments", "classifier"})
_PAPYAN = "Papyan, Han & Donoho 2020"
_ZHU = f"{_PAPYAN}; Zhu et al. 2021"
_ETF = "0: simplex ETF"
_E = "E = (I - 11^T/P) / sqrt(P - 1)"

METRICS = {
    "nc2.condition": Metric(
        lambda inputs: inputs.condition,
        "sigma_max / sigma_min of the (P, D) uncentred means",
        "Sakamoto & Sato 2025, arXiv 2509.20829",
        "[1, inf]",
        "1: orthogonal frame of equal norms",
        tier="full",
        uses=frozenset({"spectrum"}),
    ),
    "nc2.condition_centred": Metric(
        lambda inputs: inputs.condition_centred,
        "sigma_1 / sigma_(min(P - 1, D)) of the means centred on m",
        "nc2.condition after centring",
        "[1, inf]",
        "1: simplex ETF",
        tier="full",
        uses=frozenset({"centred_spectrum"}),
    ),
    "nc2.equinorm": Metric(
        equinorm,
        "std_c / mean_c of norm(mu_c - m), population form",
        _PAPYAN,
        "[0, inf)",
        "0: equal norms",
        uses=frozenset({"products"}),
    ),
    "nc2.equinorm_weight": Metric(
        equinorm_weight,
        "std_c / mean_c of norm(w_c), population form",
        _PAPYAN,
        "[0, inf)",
        "0: equal norms",
        needs=_CLASSIFIER,
    ),
    "nc2.etf_error": Metric(
        etf_error,
        f"norm_F(G / norm_F(G) - E), G the Gram matrix of the mu_c - m, {_E}",
        _ZHU,
        "[0, 2]",
        _ETF,
        tier="standard",
        uses=frozenset({"products"}),
    ),
    "nc2.etf_error_raw": Metric(
        etf_error_raw,
        f"norm_F(G / norm_F(G) - E), G the Gram matrix of the mu_c, {_E}",
        _ZHU,
        "[0, 2]",
        _ETF,
        tier="standard",
        uses=frozenset({"products"}),
    ),
    "nc2.etf_error_weight": Metric(
        etf_error_weight,
        f"norm_F(G / norm_F(G) - E), G the Gram matrix of the w_c minus their mean, {_E}",
        _ZHU,
        "[0, 2]",
        _ETF,
        tier="standard",
        needs=_CLASSIFIER,
        uses=frozenset({"row_products"}),
    ),
    "nc2.etf_error_weight_raw": Metric(
        etf_error_weight_raw,
        f"norm_F(G / norm_F(G) - E), G the Gram matrix of the w_c, {_E}",
        _ZHU,
        "[0, 2]",
        _ETF,
        tier="standard",
        needs=_CLASSIFIER,
        uses=frozenset({"row_products"}),
    ),
    "nc2.cosine_mean": Metric(
        lambda inputs: inputs.cosine_mean,
        "mean over pairs of cos(mu_c - m, mu_k - m)",
        _PAPYAN,
        "[-1/(P - 1), 1]",
        "-1/(P - 1): simplex ETF",
        uses=frozenset({"products"}),
    ),
    "nc2.cosine_std": Metric(
        lambda inputs: root(inputs.cosine_variance),
        "population std over pairs of cos(mu_c - m, mu_k - m)",
        _PAPYAN,
        "[0, 1]",
        "0: all angles equal, as in a simplex ETF",
        tier="standard",
        uses=frozenset({"products"}),
    ),
}
