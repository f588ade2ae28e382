"""Standard errors of nearest-neighbour estimates by leaving out one block of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ncfast.information.duplicates import private_generator

BLOCKS = 16
LIMIT = 4096  # rows that are cut into blocks: bounds the cost
PLENTY = 5  # samples per neighbour below which no scheme covers
LARGE = 1000  # samples above which the factor for few blocks is left out


def jackknife_stderr(
    estimate: Callable[[Tensor], float], samples: int, k: int, limit: int = LIMIT
) -> float:
    """Standard error from the scatter of the estimates without one of 16 blocks of rows.

    M = min(N, limit) random rows are cut into b = 16 blocks; v_j is the estimate without block j.
    The standard error is sqrt((b - 1) / b sum_j (v_j - mean)^2 M / N), the delete-a-group jackknife
    (Kott 2001). Up to N = 1000 it is multiplied by the ratio of the 97.5 % quantiles of Student's t
    with b - 1 degrees of freedom and of the normal distribution, so that value +- 1.96 stderr
    covers the mean of the estimator. The jackknife errs upwards (Efron & Stein 1981), here by a
    factor of up to 2 where x and y are independent. A subset is nearly the whole sample, so k
    neighbours mean nearly the same in it. The standard deviation of the terms over sqrt(N) is too
    small, because terms share neighbours; a bootstrap with replacement makes distances of zero.

    Args:
        estimate: from the numbers of some rows to the estimate on them; transformations of the
            columns belong inside, because their scatter counts too.
        samples: N. Rows must be independent.
        k: neighbours.
        limit: largest number of rows that are cut.

    Returns:
        The standard error; NaN with fewer than 5 k samples, or where an estimate is not finite.
        Unless all v_j are equal it is at least 1 / 2 N: the scatter is far too small in a sample
        that happens to give the smallest possible value, such as that of two independent coins.
    """
    if samples < PLENTY * k:
        return math.nan
    generator = private_generator(torch.device("cpu"))
    order = torch.randperm(samples, generator=generator, device=generator.device)[:limit]
    count = min(BLOCKS, len(order))
    if count < 2:
        return math.nan
    block = torch.arange(len(order), device=order.device) % count
    values = torch.tensor(
        [estimate(order[block != left_out]) for left_out in range(count)],
        dtype=torch.float64,
        device="cpu",
    )
    spread = float(values.var()) * (count - 1) ** 2 / count
    error = _few(count, samples) * math.sqrt(spread * len(order) / samples)
    return max(error, 0.5 / samples) if error > 0 else error


def _few(blocks: int, samples: int) -> float:
    """Quantile of Student's t over that of the normal distribution, 1.09 for 16 blocks."""
    from scipy.special import stdtrit  # lazy: importing ncfast is quick

    return 1.0 if samples > LARGE else float(stdtrit(blocks - 1, 0.975)) / 1.96
