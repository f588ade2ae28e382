"""NC3: how far the classifier's rows are the centred class means, up to one scale."""

from __future__ import annotations

from torch import Tensor

from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import Metric
from ncfast.ops.summary import Spread


def self_duality(inputs: MetricInputs) -> Tensor:
    """norm_F(W / norm_F(W) - M / norm_F(M))."""
    return inputs.rows.size.gap


def cross_coherence(inputs: MetricInputs) -> Tensor:
    """norm_F(A / norm_F(A) - E) with A = W M^T."""
    return inputs.row_products.cross.simplex_distance


def mean_cosine(inputs: MetricInputs) -> Tensor:
    """Mean over classes of cos(w_c, mu_c - m)."""
    return inputs.rows.cosine.mean


def _sample_variance(inputs: MetricInputs, spread: Spread) -> Tensor:
    return spread.variance * inputs.traces.bessel


def uniform_duality(inputs: MetricInputs) -> Tensor:
    """Sample variance over classes of <w_c, mu_c - m>."""
    return _sample_variance(inputs, inputs.rows.dot)


def uniform_duality_cosine(inputs: MetricInputs) -> Tensor:
    """Sample variance over classes of cos(w_c, mu_c - m)."""
    return _sample_variance(inputs, inputs.rows.cosine)


def bias_collapse(inputs: MetricInputs) -> Tensor:
    """norm(W mu_G + b): zero when the classifier sees the global mean as no class."""
    return inputs.logits_norm


def weight_sum(inputs: MetricInputs) -> Tensor:
    """norm(sum_c w_c) / norm_F(W): zero when the rows sum to zero."""
    return inputs.rows.size.sum / inputs.rows.size.frobenius


_PAPYAN = "Papyan, Han & Donoho 2020"
_W = frozenset({"moments", "classifier"})

METRICS = {
    "nc3.self_duality": Metric(
        self_duality,
        "norm_F(W / norm_F(W) - M / norm_F(M)), M the centred means",
        _PAPYAN,
        "[0, 2]",
        "0: self-dual",
        needs=_W,
    ),
    "nc3.self_duality_squared": Metric(
        lambda inputs: self_duality(inputs).square(),
        "norm_F(W / norm_F(W) - M / norm_F(M))^2",
        f"{_PAPYAN}, squared",
        "[0, 4]",
        "0: self-dual",
        needs=_W,
    ),
    "nc3.cross_coherence": Metric(
        cross_coherence,
        "norm_F(A / norm_F(A) - E), A = W M^T, E = (I - 11^T/P) / sqrt(P - 1)",
        "Zhu et al. 2021",
        "[0, 2]",
        "0: self-dual simplex ETF",
        tier="standard",
        needs=_W,
        uses=frozenset({"row_products"}),
    ),
    "nc3.cosine": Metric(
        mean_cosine,
        "mean over classes of cos(w_c, mu_c - m)",
        _PAPYAN,
        "[-1, 1]",
        "1: self-dual",
        needs=_W,
    ),
    "nc3.uniform_duality": Metric(
        uniform_duality,
        "sample variance over classes of <w_c, mu_c - m>",
        "uniform duality, UNC3: Wu & Papyan 2024, arXiv 2405.17767",
        "[0, inf)",
        "0: uniform duality",
        needs=_W,
    ),
    "nc3.uniform_duality_cosine": Metric(
        uniform_duality_cosine,
        "sample variance over classes of cos(w_c, mu_c - m)",
        "the scale-free form of nc3.uniform_duality",
        "[0, 2]",
        "0: uniform duality",
        needs=_W,
    ),
    "nc3.bias_collapse": Metric(
        bias_collapse,
        "norm(W mu_G + b) over present classes",
        _PAPYAN,
        "[0, inf)",
        "0: bias cancels the global mean",
        needs=_W | {"bias"},
    ),
    "nc3.weight_sum": Metric(
        weight_sum,
        "norm(sum_c w_c) / norm_F(W)",
        _PAPYAN,
        "[0, sqrt(P)]",
        "0: rows sum to zero",
        needs=_W,
    ),
}
