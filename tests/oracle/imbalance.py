"""Oracles of the metrics of class imbalance."""

import math
from itertools import combinations

from oracle.statistics import centred_means, classifier_rows, present_classes


def sizes(stats):
    return [int(stats["counts"][c]) for c in present_classes(stats)]


def norm(row):
    return math.sqrt(float(row @ row))


def minority_cosine(stats, rows):
    few = [
        row for row, n in zip(rows, sizes(stats), strict=True) if n * len(rows) < sum(sizes(stats))
    ]
    cosines = [float(a @ b) / (norm(a) * norm(b)) for a, b in combinations(few, 2)]
    return sum(cosines) / len(cosines) if cosines else math.nan


def ranks(values):
    """Values that differ by a rounding share a rank."""
    close = 1e-7 * max(values)
    below = [sum(v < w - close for v in values) for w in values]
    return [
        n + sum(abs(v - w) <= close for v in values) / 2 for n, w in zip(below, values, strict=True)
    ]


def size_correlation(stats, values):
    first, second = ranks(sizes(stats)), ranks(values)
    middle = len(first) / 2
    a, b = ([rank - middle for rank in each] for each in (first, second))
    spread = sum(x * x for x in a) * sum(y * y for y in b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(spread) if spread else math.nan


ORACLES = {
    "imbalance.minority_cosine_weight": lambda s: minority_cosine(s, classifier_rows(s)),
    "imbalance.minority_cosine_means": lambda s: minority_cosine(s, centred_means(s)),
    "imbalance.norm_correlation_weight": lambda s: size_correlation(
        s, [norm(row) for row in classifier_rows(s)]
    ),
    "imbalance.norm_correlation_means": lambda s: size_correlation(
        s, [norm(row) for row in centred_means(s)]
    ),
    "imbalance.nc1_correlation": lambda s: size_correlation(
        s, [s["within_ss"][c] / s["counts"][c] for c in present_classes(s)]
    ),
}
