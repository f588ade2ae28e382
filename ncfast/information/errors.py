"""Standard errors of nearest-neighbour estimates by disjoint subsets (Holmes & Nemenman 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ncfast.information.duplicates import private_generator

# (rows, groups) -> one term a row; a group's estimate is the mean of its terms
LocalTerms = Callable[[Tensor, Tensor], Tensor]

PARTS = range(2, 9)
LIMIT = 4096  # samples that are cut into subsets: bounds the cost, and B / N needs no more


def subsampled_stderr(
    local: LocalTerms, samples: int, smallest: int, device: torch.device
) -> float:
    """Standard error from the scatter of estimates on disjoint subsets.

    Cutting M samples into n disjoint subsets gives n estimates of variance B n / M. B is averaged
    over n = 2..8, weighted by degrees of freedom, and the standard error at N samples is
    sqrt(B / N) (Holmes & Nemenman 2019, arXiv 1903.09280). M is at most 4096, or eight times
    `smallest`, so the cost stops growing with N. Samples must be independent. The naive standard
    deviation of the terms over sqrt(N) is too small, because terms share neighbours; a bootstrap
    with replacement is invalid here, because it makes distances of zero.

    Args:
        local: the estimator's terms for some rows, each row seeing only its own group.
        samples: N.
        smallest: samples that a subset needs at least.
        device: where the rows live.

    Returns:
        The standard error; NaN when not even two subsets are large enough, or a term is infinite.
    """
    generator = private_generator(torch.device("cpu"))
    order = torch.randperm(samples, generator=generator, device="cpu").to(device)
    total, freedom = 0.0, 0
    for parts in PARTS:
        used = min(samples, max(LIMIT, PARTS[-1] * smallest)) // parts * parts
        if used < parts * smallest:
            break
        total += (parts - 1) * _variance(local, order[:used], parts) * used / parts
        freedom += parts - 1
    return math.sqrt(total / freedom / samples) if freedom else math.nan


def _variance(local: LocalTerms, rows: Tensor, parts: int) -> float:
    groups = torch.arange(len(rows), device=rows.device) % parts
    terms = local(rows, groups)
    return float(terms.view(-1, parts).nanmean(0).var())  # a term left out is NaN
