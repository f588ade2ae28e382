"""NC3: how far the classifier's rows are the centred class means, up to one scale."""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.metrics._evidence import Evidence
from ncfast.metrics._metric import Metric
from ncfast.metrics._simplex import etf_distance


def _defined(evidence: Evidence, value: Tensor) -> Tensor:
    """NaN with fewer than two classes, whose centred means are zero."""
    return torch.where(evidence.number > 1, value, torch.nan)


def self_duality(evidence: Evidence) -> Tensor:
    """norm_F(W / norm_F(W) - M / norm_F(M))."""
    rows, means = evidence.rows_present, evidence.centred
    gap = rows / torch.linalg.matrix_norm(rows) - means / torch.linalg.matrix_norm(means)
    return _defined(evidence, torch.linalg.matrix_norm(gap))


def cross_coherence(evidence: Evidence) -> Tensor:
    """norm_F(A / norm_F(A) - E) with A = W M^T."""
    return etf_distance(
        evidence.rows_present,
        evidence.centred,
        evidence.moments.present,
        lambda: (evidence.product_of_rows, evidence.product_of_means),
    )


def _over_classes(evidence: Evidence, values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations of (K,) values over present classes."""
    present = evidence.moments.present
    mean = torch.where(present, values, 0.0).sum() / evidence.number
    squares = torch.where(present, values - mean, 0.0).square().sum()
    return mean, squares


def similarities(evidence: Evidence) -> Tensor:
    """cos(w_c, mu_c - m), (K,)."""
    rows = evidence.rows_present
    norms = torch.linalg.vector_norm(rows, dim=1) * evidence.norms
    return (rows * evidence.centred).sum(1) / norms


def mean_cosine(evidence: Evidence) -> Tensor:
    """Mean over classes of cos(w_c, mu_c - m)."""
    return _defined(evidence, _over_classes(evidence, similarities(evidence))[0])


def uniform_duality(evidence: Evidence) -> Tensor:
    """Sample variance over classes of <w_c, mu_c - m>."""
    dots = (evidence.rows_present * evidence.centred).sum(1)
    return _defined(evidence, _over_classes(evidence, dots)[1] / (evidence.number - 1))


def uniform_duality_cosine(evidence: Evidence) -> Tensor:
    """Sample variance over classes of cos(w_c, mu_c - m)."""
    squares = _over_classes(evidence, similarities(evidence))[1]
    return _defined(evidence, squares / (evidence.number - 1))


def bias_collapse(evidence: Evidence) -> Tensor:
    """norm(W mu_G + b): zero when the classifier sees the global mean as no class."""
    assert evidence.bias is not None
    logits = evidence.classifier @ evidence.moments.global_mean + evidence.bias
    kept = torch.where(evidence.moments.present, logits, 0.0)
    return torch.linalg.vector_norm(kept) + evidence.poison


def weight_sum(evidence: Evidence) -> Tensor:
    """norm(sum_c w_c) / norm_F(W): zero when the rows sum to zero."""
    rows = evidence.rows_present
    share = torch.linalg.vector_norm(rows.sum(0)) / torch.linalg.matrix_norm(rows)
    return _defined(evidence, share) + evidence.poison


_PAPYAN = "Papyan, Han & Donoho 2020"
_W = ("weight",)

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
        lambda evidence: self_duality(evidence).square(),
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
        needs=("weight", "bias"),
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
