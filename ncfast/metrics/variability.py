"""NC1: within-class variability, absolute (RNC1) and relative to the spread between classes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ncfast.moments import ClassMoments


def rescaled_variability(moments: ClassMoments, scale: Literal["max", "mean"] = "max") -> Tensor:
    """RNC1 = Tr(Sigma_W) / B_g^2, with B_g the largest (paper) or the mean row norm."""
    norm = moments.norm_max if scale == "max" else moments.norm_mean
    return moments.within_trace / norm.square()


def variability_quotient(moments: ClassMoments) -> Tensor:
    """Tr(Sigma_W) / Tr(Sigma_B), Sigma_B unweighted: every class counts the same."""
    between = moments.centred_means.square().sum() / moments.present.sum()
    return moments.within_trace / between


def class_distance_normalized_variance(moments: ClassMoments) -> Tensor:
    """CDNV: mean over pairs of (V_c + V_k) / (2 norm(mu_c - mu_k)^2)."""
    # the direct mode takes differences first: the norm expansion cancels for close means
    distance = torch.cdist(
        moments.means, moments.means, compute_mode="donot_use_mm_for_euclid_dist"
    )
    variance = moments.class_variances
    ratio = (variance.unsqueeze(1) + variance) / (2 * distance.square())
    return mean_over_pairs(ratio, moments.present)


def mean_over_pairs(values: Tensor, present: Tensor) -> Tensor:
    """Mean of a (K, K) matrix over its off-diagonal entries of present classes; NaN if none."""
    index = torch.arange(len(present), device=present.device)
    pairs = present.unsqueeze(1) & present & (index.unsqueeze(1) != index)
    return torch.where(pairs, values, 0.0).sum() / pairs.sum()
