"""The definitions, written out in float64 loops: what every fast path must equal."""

import math
from itertools import combinations

import numpy as np
import torch


def two_pass(feats, labels, num_classes):
    """Class moments by a float64 two-pass over the stored input."""
    x = feats.detach().to(torch.float64).numpy()
    y = labels.to(torch.int64).numpy()
    counts = np.zeros(num_classes, np.int64)
    means = np.zeros((num_classes, x.shape[1]))
    within = np.zeros(num_classes)
    for c in range(num_classes):
        rows = x[y == c]
        counts[c] = len(rows)
        if len(rows):
            # the mean of the shifted rows: a plain float64 mean is off by more than 1e-9 of the
            # spread once the class has collapsed to 1e-7
            pivot = rows[0]
            means[c] = pivot + (rows - pivot).mean(0)
            shifted = (rows - pivot) - (rows - pivot).mean(0)
            within[c] = math.fsum((shifted**2).sum(1))
    norms = np.sqrt((x**2).sum(1))
    return {
        "counts": counts,
        "means": means,
        "within_ss": within,
        "norm_sum": math.fsum(norms),
        "norm_max": norms.max(),
    }


def _present(stats):
    return [c for c, n in enumerate(stats["counts"]) if n > 0]


def _centred(stats):
    present = _present(stats)
    mean = sum(stats["means"][c] for c in present) / len(present)
    return [stats["means"][c] - mean for c in present]


def _trace_within(stats):
    return sum(stats["within_ss"]) / sum(stats["counts"])


def rnc1_max(stats):
    return _trace_within(stats) / stats["norm_max"] ** 2


def rnc1_mean(stats):
    return _trace_within(stats) / (stats["norm_sum"] / sum(stats["counts"])) ** 2


def quotient(stats):
    centred = _centred(stats)
    return _trace_within(stats) / (sum(float(m @ m) for m in centred) / len(centred))


def cdnv(stats):
    values = []
    for c, k in combinations(_present(stats), 2):
        gap = stats["means"][c] - stats["means"][k]
        spread = sum(stats["within_ss"][i] / stats["counts"][i] for i in (c, k))
        values.append(spread / (2 * float(gap @ gap)))
    return sum(values) / len(values)


def condition(stats):
    singular = np.linalg.svd(stats["means"][_present(stats)], compute_uv=False)
    return singular[0] / singular[-1]


def equinorm(stats):
    norms = [math.sqrt(float(m @ m)) for m in _centred(stats)]
    mean = sum(norms) / len(norms)
    return math.sqrt(sum((n - mean) ** 2 for n in norms) / len(norms)) / mean


def equiangular(stats):
    centred = _centred(stats)
    values = []
    for a, b in combinations(centred, 2):
        cosine = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
        values.append(abs(cosine + 1 / (len(centred) - 1)))
    return sum(values) / len(values)


def etf_error(stats):
    centred = _centred(stats)
    number = len(centred)
    gram = [[float(a @ b) for b in centred] for a in centred]
    size = math.sqrt(sum(value**2 for row in gram for value in row))
    total = 0.0
    for i in range(number):
        for j in range(number):
            etf = ((i == j) - 1 / number) / math.sqrt(number - 1)
            total += (gram[i][j] / size - etf) ** 2
    return math.sqrt(total)


TWINS = {
    "rnc1.max": rnc1_max,
    "rnc1.mean": rnc1_mean,
    "nc1.quotient": quotient,
    "nc1.cdnv": cdnv,
    "nc2.condition": condition,
    "nc2.equinorm": equinorm,
    "nc2.equiangular": equiangular,
    "nc2.etf_error": etf_error,
}
