"""Standard errors of nearest-neighbour estimates by a delete-a-group jackknife."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ncfast.information.duplicates import private_generator

BLOCKS = 16
LIMIT = 4096  # number of rows that are cut into blocks; bounds the cost
PLENTY = 5  # samples per neighbour below which no interval covers the mean reliably
LARGE = 1000  # number of samples above which Student's factor is omitted


def jackknife_stderr(
    estimate: Callable[[Tensor], float], samples: int, k: int, limit: int = LIMIT
) -> float:
    """Standard error of an estimate, from the estimates without one of 16 blocks of rows.

    M = min(N, limit) random rows are cut into b = 16 blocks; v_j is the estimate without block j.
    The standard error is sqrt((b - 1) / b sum_j (v_j - mean)^2 M / N), the delete-a-group jackknife
    (Kott 2001). Up to N = 1000 it is multiplied by the ratio of the 97.5 % quantiles of Student's t
    with b - 1 degrees of freedom and of the normal distribution, so that value +- 1.96 stderr
    covers the mean of the estimator. The jackknife tends to be too large (Efron & Stein 1981), here
    by a factor of up to 2 for independent x and y.

    Two other schemes fail here. The standard deviation of the terms over sqrt(N) is too small,
    because terms share neighbours. A bootstrap with replacement creates distances of zero. A
    jackknife subset is nearly the whole sample, so k neighbours reach about as far in it.

    Args:
        estimate: maps row numbers to the estimate on these rows. It must repeat transformations of
            the columns, because they vary between subsets too.
        samples: number of rows N. The rows must be independent.
        k: number of neighbours.
        limit: largest number of rows to cut into blocks.

    Returns:
        The standard error, at least 1 / 2 N. Without this floor it would be far too small, or
        zero, for a sample that happens to give the smallest possible value, such as one of two
        independent coins. It is NaN with fewer than 5 k samples, or if an estimate is not finite.
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
    return max(error, 0.5 / samples)  # NaN stays NaN


def _few(blocks: int, samples: int) -> float:
    """The 97.5 % quantile of Student's t over that of the normal; 1 for large samples."""
    from scipy.special import stdtrit  # lazy: `import ncfast` must stay fast

    return 1.0 if samples > LARGE else float(stdtrit(blocks - 1, 0.975)) / 1.96
