"""Metrics of class imbalance: what becomes of classes with few samples."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import Metric
from ncfast.ops.summary import mean_cosine


def minority(inputs: MetricInputs) -> Tensor:
    """Which classes have a sample, and fewer than N / P of them, (..., K) bool."""
    few = inputs.moments.counts * inputs.number.unsqueeze(-1) < inputs.total.unsqueeze(-1)
    return few & inputs.present


def _minority_cosine(inputs: MetricInputs, rows: Tensor) -> Tensor:
    """Mean cosine over pairs of minority rows (..., K, D); NaN with fewer than two of them."""
    kept = minority(inputs)
    cosine = mean_cosine(rows, torch.linalg.vector_norm(rows, dim=-1), kept)
    return torch.where(kept.sum(-1) > 1, cosine, torch.nan) + inputs.nan_if_invalid


def _ranks(values: Tensor, present: Tensor) -> Tensor:
    """Ranks of the present values (..., K) >= 0 minus their mean; equal values share a rank.

    Values that are equal in float32 are equal: rounding does not decide, as it would between the
    centred means of two classes.
    """
    share = values / torch.where(present, values, 0.0).amax(-1, keepdim=True)
    values = torch.where(present, share.to(torch.float32), torch.inf).contiguous()
    ordered = values.sort(-1).values
    below = torch.searchsorted(ordered, values)
    rank = (below + torch.searchsorted(ordered, values, right=True)).to(torch.float64) / 2
    rank = torch.where(present, rank, 0.0)
    mean = rank.sum(-1, keepdim=True) / present.sum(-1, keepdim=True)
    return torch.where(present, rank - mean, 0.0)


def _size_correlation(inputs: MetricInputs, values: Tensor) -> Tensor:
    """Spearman's correlation of values (..., K) with class size; NaN if either is constant."""
    size = _ranks(inputs.moments.counts.to(torch.float64), inputs.present)
    rank = _ranks(values, inputs.present)
    spread = (size.square().sum(-1) * rank.square().sum(-1)).sqrt()
    undefined = 0 * torch.where(inputs.present, values, 0.0).sum(-1) + inputs.nan_if_invalid
    return (size * rank).sum(-1) / spread + undefined


def _norms_of_rows(inputs: MetricInputs) -> Tensor:
    return torch.linalg.vector_norm(inputs.rows_present, dim=-1)


_FANG = "Fang et al. 2021 (minority collapse), arXiv 2101.12699"
_SPEARMAN = "Spearman 1904; by class size as in Fang et al. 2021"
_CORRELATION = "Spearman's rank correlation over classes of n_c with"
_PAIRS = "over pairs of classes with n_c < N / P"
_W = frozenset({"moments", "classifier"})

# not beside the cheap ones: these metrics are NaN wherever classes have equal sizes
_full = partial(Metric, tier="full")

METRICS = {
    "imbalance.minority_cosine_weight": _full(
        lambda inputs: _minority_cosine(inputs, inputs.rows_present),
        f"mean of cos(w_c, w_k) {_PAIRS}",
        _FANG,
        "[-1, 1]",
        "1: minority classes share a row; -1 / (K - 1): simplex ETF",
        needs=_W,
    ),
    "imbalance.minority_cosine_means": _full(
        lambda inputs: _minority_cosine(inputs, inputs.centred),
        f"mean of cos(mu_c - m, mu_k - m) {_PAIRS}",
        _FANG,
        "[-1, 1]",
        "1: minority classes share a mean; -1 / (P - 1): simplex ETF",
    ),
    "imbalance.norm_correlation_weight": _full(
        lambda inputs: _size_correlation(inputs, _norms_of_rows(inputs)),
        f"{_CORRELATION} norm(w_c)",
        _SPEARMAN,
        "[-1, 1]",
        "1: larger classes have longer rows",
        needs=_W,
    ),
    "imbalance.norm_correlation_means": _full(
        lambda inputs: _size_correlation(inputs, inputs.norms),
        f"{_CORRELATION} norm(mu_c - m)",
        _SPEARMAN,
        "[-1, 1]",
        "1: larger classes have means farther out",
    ),
    "imbalance.nc1_correlation": _full(
        lambda inputs: _size_correlation(inputs, inputs.moments.class_variances),
        f"{_CORRELATION} V_c",
        _SPEARMAN,
        "[-1, 1]",
        "-1: larger classes have collapsed further",
    ),
}
