"""NC2: how close the class means are to an orthogonal frame or to a simplex ETF."""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.metrics.variability import mean_over_pairs
from ncfast.moments import ClassMoments


def condition_number(moments: ClassMoments) -> Tensor:
    """Condition number of the (P, D) matrix of uncentred means of the P present classes."""
    means = moments.means  # absent classes are zero rows: they only append zero singular values
    # LAPACK raises on NaN or infinity: let it see zeros, and put the NaN back afterwards
    usable = torch.isfinite(means).all()
    singular = torch.linalg.svdvals(torch.where(usable, means, 0.0))
    rank = moments.present.sum().clamp(max=len(singular))
    smallest = singular.gather(0, (rank - 1).clamp(min=0).reshape(1)).squeeze(0)
    return torch.where(usable & (rank > 0), singular.amax() / smallest, torch.nan)


def equinorm(moments: ClassMoments) -> Tensor:
    """Population standard deviation over mean of norm(mu_c - m), m the mean of class means."""
    norms = torch.linalg.vector_norm(moments.centred_means, dim=1)
    number = moments.present.sum()
    mean = norms.sum() / number
    deviation = torch.where(moments.present, norms - mean, 0.0)
    return (deviation.square().sum() / number).sqrt() / mean


def equiangularity(moments: ClassMoments) -> Tensor:
    """Mean over pairs of abs(cos(mu_c - m, mu_k - m) + 1 / (P - 1))."""
    centred = moments.centred_means
    norms = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    unit = centred / torch.where(moments.present.unsqueeze(1), norms, 1.0)
    cosine = -1 / (moments.present.sum() - 1).to(unit.dtype)  # of a simplex ETF
    deviation = (unit @ unit.T - cosine).abs()
    return mean_over_pairs(deviation, moments.present)


def etf_error(moments: ClassMoments) -> Tensor:
    """norm_F(G / norm_F(G) - E): Gram matrix of the centred means against the simplex ETF."""
    gram = moments.centred_means @ moments.centred_means.T
    present = moments.present.to(gram.dtype)
    number = present.sum()
    etf = (torch.diag(present) - torch.outer(present, present) / number) / (number - 1).sqrt()
    return torch.linalg.matrix_norm(gram / torch.linalg.matrix_norm(gram) - etf)
