"""NC1 from the moments alone: RNC1, variance quotients and fractions."""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import Metric
from ncfast.moments import ClassMoments, check_mergeable


def rescaled_variability(within_trace: Tensor, norm: Tensor) -> Tensor:
    """RNC1 = Tr(Sigma_W) / B_g^2, with B_g the largest (paper) or the mean row norm."""
    return within_trace / norm.square()


def _by_largest_norm(inputs: MetricInputs) -> Tensor:
    return rescaled_variability(inputs.traces.within, inputs.moments.norm_max)


def _by_mean_norm(inputs: MetricInputs) -> Tensor:
    return rescaled_variability(inputs.traces.within, inputs.traces.norm_mean)


def within_trace_around(moments: ClassMoments, around: ClassMoments) -> Tensor:
    """(1/N) sum_i norm(g_i - nu_c)^2 with the class means nu_c of other moments, ().

    Classes that the other moments lack make it NaN: there is nothing to measure from.
    """
    check_mergeable(moments, around, "around")
    shift = torch.linalg.vector_norm(moments.means - around.means, dim=1).square()
    total = (moments.within_ss + moments.counts * shift).sum() / moments.total
    return torch.where((moments.present & ~around.present).any(), torch.nan, total)


def quotient(inputs: MetricInputs) -> Tensor:
    """Tr(Sigma_W) / Tr(Sigma_B), Sigma_B unweighted: every class counts the same."""
    return inputs.traces.within / inputs.between_trace


def quotient_by_class(inputs: MetricInputs) -> Tensor:
    """V_c / Tr(Sigma_B), Sigma_B unweighted, (..., K); NaN for absent classes."""
    share = inputs.moments.class_variances / inputs.between_trace.unsqueeze(-1)
    undefined = inputs.nan_if_invalid.unsqueeze(-1)
    return torch.where(inputs.present, share, torch.nan) + undefined


def quotient_sample(inputs: MetricInputs) -> Tensor:
    """Tr(Sigma_W) / Tr(Sigma_B), Sigma_B weighted by n_c / N: every sample counts the same."""
    return inputs.traces.within / inputs.between_trace_sample


def _within_fraction(inputs: MetricInputs) -> Tensor:
    within = inputs.traces.within
    return within / (within + inputs.between_trace)


def _within_fraction_sample(inputs: MetricInputs) -> Tensor:
    within = inputs.traces.within
    return within / (within + inputs.between_trace_sample)


_PAPER = "Sakamoto & Sato 2025, arXiv 2509.20829"
_TIRER = "Tirer, Huang & Niles-Weed 2023"
_COLLAPSED = "0: collapsed"
_PRODUCTS = frozenset({"products"})

METRICS = {
    "rnc1.max": Metric(
        _by_largest_norm,
        "Tr(Sigma_W) / max_i norm(g_i)^2",
        _PAPER,
        "[0, 1]",
        _COLLAPSED,
    ),
    "rnc1.mean": Metric(
        _by_mean_norm,
        "Tr(Sigma_W) / (mean_i norm(g_i))^2",
        "the figures of the public code of arXiv 2509.20829",
        "[0, inf)",
        _COLLAPSED,
    ),
    "nc1.quotient": Metric(
        quotient,
        "Tr(Sigma_W) / Tr(Sigma_B), Sigma_B = (1/P) sum_c (mu_c - m)(mu_c - m)^T",
        _TIRER,
        "[0, inf]",
        _COLLAPSED,
        uses=_PRODUCTS,
    ),
    "nc1.quotient_sample": Metric(
        quotient_sample,
        "Tr(Sigma_W) / Tr(Sigma_B), Sigma_B = sum_c (n_c/N)(mu_c - mu_G)(mu_c - mu_G)^T",
        f"{_TIRER}; the NC1 of {_PAPER}",
        "[0, inf]",
        _COLLAPSED,
        uses=_PRODUCTS,
    ),
    "nc1.within_fraction": Metric(
        _within_fraction,
        "Tr(Sigma_W) / (Tr(Sigma_W) + Tr(Sigma_B)), Sigma_B by class",
        "q / (1 + q) of nc1.quotient",
        "[0, 1]",
        _COLLAPSED,
        uses=_PRODUCTS,
    ),
    "nc1.within_fraction_sample": Metric(
        _within_fraction_sample,
        "Tr(Sigma_W) / Tr(Sigma_T), Sigma_T the total covariance",
        "q / (1 + q) of nc1.quotient_sample; one minus eta squared",
        "[0, 1]",
        _COLLAPSED,
        uses=_PRODUCTS,
    ),
}
