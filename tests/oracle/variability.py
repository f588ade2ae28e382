"""Oracles of RNC1, NC1 and the ranks."""

import math
from itertools import combinations

import numpy as np
from oracle.statistics import (
    centred_means,
    present_classes,
    sigma_b,
    sigma_b_sample,
    sigma_w,
    trace_within,
)


def rnc1_max(stats):
    return trace_within(stats) / stats["norm_max"] ** 2


def rnc1_mean(stats):
    return trace_within(stats) / (stats["norm_sum"] / sum(stats["counts"])) ** 2


def quotient(stats):
    centred = centred_means(stats)
    return trace_within(stats) / (sum(float(m @ m) for m in centred) / len(centred))


def cdnv(stats):
    values = []
    for c, k in combinations(present_classes(stats), 2):
        gap = stats["means"][c] - stats["means"][k]
        spread = sum(stats["within_ss"][i] / stats["counts"][i] for i in (c, k))
        values.append(spread / (2 * float(gap @ gap)))
    return sum(values) / len(values)


def quotient_sample(stats):
    return trace_within(stats) / np.trace(sigma_b_sample(stats))


def within_fraction(stats):
    return trace_within(stats) / (trace_within(stats) + np.trace(sigma_b(stats)))


def within_fraction_sample(stats):
    return trace_within(stats) / (trace_within(stats) + np.trace(sigma_b_sample(stats)))


def _pinv(matrix):
    cutoff = len(matrix) * np.finfo(np.float64).eps
    return np.linalg.pinv(matrix, rcond=cutoff, hermitian=True)


def pinv(stats):
    return np.trace(sigma_w(stats) @ _pinv(sigma_b(stats))) / len(present_classes(stats))


def svd(stats):
    left, values, _ = np.linalg.svd(sigma_b(stats))
    number = len(present_classes(stats))
    total = 0.0
    for r in range(min(number - 1, len(values))):
        total += left[:, r] @ sigma_w(stats) @ left[:, r] / values[r]
    return total / number


def bounded(stats):
    between = sigma_b(stats)
    explained = np.trace(_pinv(sigma_w(stats) + between) @ between)
    return 1 - explained / min(len(between), len(present_classes(stats)) - 1)


def vci(stats):
    between = sigma_b_sample(stats)
    explained = np.trace(_pinv(sigma_w(stats) + between) @ between)
    return 1 - explained / np.linalg.matrix_rank(sigma_b(stats), hermitian=True)


def cdnv_max(stats):
    return max(cdnv(_only(stats, pair)) for pair in combinations(present_classes(stats), 2))


def _only(stats, classes):
    """The statistics restricted to some classes; the others are absent."""
    counts = np.array([n if c in classes else 0 for c, n in enumerate(stats["counts"])])
    return {**stats, "counts": counts}


def effective_rank(matrix):
    singular = np.linalg.svd(matrix, compute_uv=False)
    # values whose square is below the rounding of the largest square count as zero
    cutoff = math.sqrt(matrix.shape[1] * np.finfo(np.float64).eps) * singular[0]
    share = [s for s in singular if s > cutoff]
    return math.exp(-sum(s / sum(share) * math.log(s / sum(share)) for s in share))


def participation_ratio(covariance):
    return np.trace(covariance) ** 2 / (covariance**2).sum()


def stable_rank(matrix):
    return (matrix**2).sum() / np.linalg.norm(matrix, 2) ** 2


def with_floor(values):
    """Exponential entropy of shares that are raised by 1e-7."""
    share = [float(value) / float(sum(values)) + 1e-7 for value in values]
    return math.exp(-sum(p * math.log(p) for p in share))


def rankme(stats):
    singular = np.linalg.svd(stats["x"], compute_uv=False)
    cutoff = math.sqrt(stats["x"].shape[1] * np.finfo(np.float64).eps) * singular[0]
    return with_floor([s if s > cutoff else 0.0 for s in singular])


def decay(stats):
    """Minus the slope of log eigenvalues over log ranks, and the size of the residuals."""
    values = np.linalg.eigvalsh(sigma_w(stats) + sigma_b_sample(stats))[::-1]
    values = values[values > len(values) * np.finfo(np.float64).eps * values[0]]
    if len(values) < 2:
        return math.nan, math.nan
    rank, height = np.log(np.arange(1, len(values) + 1)), np.log(values)
    slope, level = np.polyfit(rank, height, 1)
    return -slope, math.sqrt(np.mean((height - level - slope * rank) ** 2))


def lidar(stats):
    within = sigma_w(stats) + 1e-4 * np.eye(stats["x"].shape[1])
    root = np.linalg.inv(np.linalg.cholesky(within))
    between = root @ sigma_b(stats) @ root.T  # a rotation of the symmetric form
    if len(present_classes(stats)) < 2:
        return math.nan
    return with_floor(np.linalg.eigvalsh(between).clip(0))
