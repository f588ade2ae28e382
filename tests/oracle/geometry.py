"""Oracles of NC2 and NC3."""

import math
from itertools import combinations

import numpy as np
from oracle.statistics import (
    centred_means,
    classifier_rows,
    global_mean,
    present_classes,
    structure_error,
)


def condition(stats):
    singular = np.linalg.svd(stats["means"][present_classes(stats)], compute_uv=False)
    return singular[0] / singular[-1]


def equinorm(stats):
    norms = [math.sqrt(float(m @ m)) for m in centred_means(stats)]
    mean = sum(norms) / len(norms)
    return math.sqrt(sum((n - mean) ** 2 for n in norms) / len(norms)) / mean


def equiangular(stats):
    centred = centred_means(stats)
    values = []
    for a, b in combinations(centred, 2):
        cosine = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
        values.append(abs(cosine + 1 / (len(centred) - 1)))
    return sum(values) / len(values)


def etf_error(stats):
    centred = centred_means(stats)
    number = len(centred)
    gram = [[float(a @ b) for b in centred] for a in centred]
    size = math.sqrt(sum(value**2 for row in gram for value in row))
    total = 0.0
    for i in range(number):
        for j in range(number):
            etf = ((i == j) - 1 / number) / math.sqrt(number - 1)
            total += (gram[i][j] / size - etf) ** 2
    return math.sqrt(total)


def _pair_values(stats, function):
    """Values of a function of two unit centred means, for every pair of classes."""
    units = [m / math.sqrt(float(m @ m)) for m in centred_means(stats)]
    return [function(u, v) for u, v in combinations(units, 2)]


def distance(u, v):
    return math.sqrt(float((u - v) @ (u - v)))


def cosine(u, v):
    return float(u @ v)


def log_energy(u, v):
    return -math.log(distance(u, v)) if distance(u, v) else math.inf


def riesz_energy(u, v):
    return 1 / distance(u, v) if distance(u, v) else math.inf


def over_pairs(function, reduce):
    return lambda stats: reduce(_pair_values(stats, function))


def variance(values):
    """Population variance; NaN if a value is infinite."""
    return np.var(values) if np.isfinite(values).all() else math.nan


def coherence(stats):
    return max(abs(value) for value in _pair_values(stats, cosine))


def condition_centred(stats):
    singular = np.linalg.svd(np.array(centred_means(stats)), compute_uv=False)
    return singular[0] / singular[min(len(present_classes(stats)) - 1, stats["means"].shape[1]) - 1]


def etf_error_raw(stats):
    means = [stats["means"][c] for c in present_classes(stats)]
    return structure_error(means, means)


def etf_error_weight(stats):
    rows = classifier_rows(stats)
    centred = [row - sum(rows) / len(rows) for row in rows]
    return structure_error(centred, centred)


def etf_error_weight_raw(stats):
    return structure_error(classifier_rows(stats), classifier_rows(stats))


def equinorm_weight(stats):
    norms = [math.sqrt(float(w @ w)) for w in classifier_rows(stats)]
    return np.std(norms) / np.mean(norms)


def self_duality(stats):
    rows, means = np.array(classifier_rows(stats)), np.array(centred_means(stats))
    gap = rows / math.sqrt((rows**2).sum()) - means / math.sqrt((means**2).sum())
    return math.sqrt((gap**2).sum())


def self_duality_squared(stats):
    return self_duality(stats) ** 2


def cross_coherence(stats):
    return structure_error(classifier_rows(stats), centred_means(stats))


def dots(stats):
    return [float(w @ m) for w, m in zip(classifier_rows(stats), centred_means(stats), strict=True)]


def similarities(stats):
    return [
        float(w @ m) / math.sqrt(float(w @ w) * float(m @ m))
        for w, m in zip(classifier_rows(stats), centred_means(stats), strict=True)
    ]


def bias_collapse(stats):
    centre = global_mean(stats)
    values = [stats["weight"][c] @ centre + stats["bias"][c] for c in present_classes(stats)]
    return math.sqrt(sum(float(value) ** 2 for value in values))


def weight_sum(stats):
    total = sum(classifier_rows(stats))
    return math.sqrt(float(total @ total) / sum(float(w @ w) for w in classifier_rows(stats)))
