"""NC1 from the moments alone: RNC1, variance quotients and fractions."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ncfast.metrics._evidence import Evidence
from ncfast.metrics._metric import Metric, of_moments
from ncfast.moments import ClassMoments, check_mergeable


def rescaled_variability(
    moments: ClassMoments,
    scale: Literal["max", "mean"] = "max",
    around: ClassMoments | None = None,
) -> Tensor:
    """RNC1 = Tr(Sigma_W) / B_g^2, with B_g the largest (paper) or the mean row norm."""
    norm = moments.norm_max if scale == "max" else moments.norm_mean
    trace = moments.within_trace if around is None else within_trace_around(moments, around)
    return trace / norm.square()


def within_trace_around(moments: ClassMoments, around: ClassMoments) -> Tensor:
    """(1/N) sum_i norm(g_i - nu_c)^2 with the class means nu_c of other moments, ().

    Classes that the other moments lack make it NaN: there is nothing to measure from.
    """
    check_mergeable(moments, around)
    shift = torch.linalg.vector_norm(moments.means - around.means, dim=1).square()
    total = (moments.within_ss + moments.counts * shift).sum() / moments.total
    return torch.where((moments.present & ~around.present).any(), torch.nan, total)


def variability_quotient(moments: ClassMoments) -> Tensor:
    """Tr(Sigma_W) / Tr(Sigma_B), Sigma_B unweighted: every class counts the same."""
    between = moments.centred_means.square().sum() / moments.present.sum()
    return moments.within_trace / between


def sample_between_trace(moments: ClassMoments) -> Tensor:
    """Tr(Sigma_B) = sum_c (n_c / N) norm(mu_c - mu_G)^2, every sample counting the same, ()."""
    # around m first: mu_G is then a small correction, and nothing cancels far from the origin
    share = moments.counts.to(torch.float64) / moments.total
    centred = moments.centred_means
    return (share * (centred - share @ centred).square().sum(1)).sum()


def sample_quotient(moments: ClassMoments) -> Tensor:
    """Tr(Sigma_W) / Tr(Sigma_B), Sigma_B weighted by n_c / N: every sample counts the same."""
    return moments.within_trace / sample_between_trace(moments)


def _within_fraction(evidence: Evidence) -> Tensor:
    within = evidence.moments.within_trace
    return within / (within + evidence.between_trace)


def _within_fraction_sample(evidence: Evidence) -> Tensor:
    within = evidence.moments.within_trace
    return within / (within + sample_between_trace(evidence.moments))


_PAPER = "Sakamoto & Sato 2025, arXiv 2509.20829"
_TIRER = "Tirer, Huang & Niles-Weed 2023"
_COLLAPSED = "0: collapsed"

METRICS = {
    "rnc1.max": Metric(
        of_moments(partial(rescaled_variability, scale="max")),
        "Tr(Sigma_W) / max_i norm(g_i)^2",
        _PAPER,
        "[0, 1]",
        _COLLAPSED,
    ),
    "rnc1.mean": Metric(
        of_moments(partial(rescaled_variability, scale="mean")),
        "Tr(Sigma_W) / (mean_i norm(g_i))^2",
        "the figures of the public code of arXiv 2509.20829",
        "[0, inf)",
        _COLLAPSED,
    ),
    "nc1.quotient": Metric(
        of_moments(variability_quotient),
        "Tr(Sigma_W) / Tr(Sigma_B), Sigma_B = (1/P) sum_c (mu_c - m)(mu_c - m)^T",
        _TIRER,
        "[0, inf]",
        _COLLAPSED,
    ),
    "nc1.quotient_sample": Metric(
        of_moments(sample_quotient),
        "Tr(Sigma_W) / Tr(Sigma_B), Sigma_B = sum_c (n_c/N)(mu_c - mu_G)(mu_c - mu_G)^T",
        f"{_TIRER}; the NC1 of {_PAPER}",
        "[0, inf]",
        _COLLAPSED,
    ),
    "nc1.within_fraction": Metric(
        _within_fraction,
        "Tr(Sigma_W) / (Tr(Sigma_W) + Tr(Sigma_B)), Sigma_B by class",
        "q / (1 + q) of nc1.quotient",
        "[0, 1]",
        _COLLAPSED,
    ),
    "nc1.within_fraction_sample": Metric(
        _within_fraction_sample,
        "Tr(Sigma_W) / Tr(Sigma_T), Sigma_T the total covariance",
        "q / (1 + q) of nc1.quotient_sample; one minus eta squared",
        "[0, 1]",
        _COLLAPSED,
    ),
}
