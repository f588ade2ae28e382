"""Statistics that the oracles share: class moments by two float64 passes, covariances."""

import math

import numpy as np
import torch


def two_pass(feats, labels, num_classes):
    """Class moments by two float64 passes over the stored input."""
    x = feats.detach().to(torch.float64).numpy()
    y = labels.to(torch.int64).numpy()
    counts = np.zeros(num_classes, np.int64)
    means = np.zeros((num_classes, x.shape[1]))
    within = np.zeros(num_classes)
    for c in range(num_classes):
        rows = x[y == c]
        counts[c] = len(rows)
        if len(rows):
            # the mean of shifted rows: the error of an unshifted float64 mean exceeds 1e-9 of the
            # spread if the class has collapsed to 1e-7
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


def case(feats, labels, num_classes, weight=None, bias=None, ood=None):
    """The statistics, the rows and the classifier of a case, in float64."""
    found = two_pass(feats, labels, num_classes)
    found["x"] = feats.detach().to(torch.float64).numpy()
    found["y"] = labels.to(torch.int64).numpy()
    for name, tensor in (("weight", weight), ("bias", bias), ("ood", ood)):
        found[name] = None if tensor is None else tensor.to(torch.float64).numpy()
    return found


def present_classes(stats):
    return [c for c, n in enumerate(stats["counts"]) if n > 0]


def centred_means(stats):
    present = present_classes(stats)
    mean = sum(stats["means"][c] for c in present) / len(present)
    return [stats["means"][c] - mean for c in present]


def global_mean(stats):
    return sum(n * m for n, m in zip(stats["counts"], stats["means"], strict=True)) / sum(
        stats["counts"]
    )


def trace_within(stats):
    return sum(stats["within_ss"]) / sum(stats["counts"])


def sigma_w(stats):
    """The within-class covariance Sigma_W."""
    total = np.zeros((stats["x"].shape[1],) * 2)
    for x, c in zip(stats["x"], stats["y"], strict=True):
        total += np.outer(x - stats["means"][c], x - stats["means"][c])
    return total / len(stats["x"])


def sigma_b(stats):
    """The between-class covariance Sigma_B with equal weight for every class."""
    centred = centred_means(stats)
    return sum(np.outer(m, m) for m in centred) / len(centred)


def sigma_b_sample(stats):
    """The between-class covariance Sigma_B with equal weight for every sample."""
    centre = global_mean(stats)
    total = 0.0
    for n, m in zip(stats["counts"], stats["means"], strict=True):
        total = total + n / sum(stats["counts"]) * np.outer(m - centre, m - centre)
    return total


def classifier_rows(stats):
    return [stats["weight"][c] for c in present_classes(stats)]


def structure_error(left, right):
    number = len(left)
    product = [[float(a @ b) for b in right] for a in left]
    size = math.sqrt(sum(value**2 for row in product for value in row))
    total = 0.0
    for i in range(number):
        for j in range(number):
            etf = ((i == j) - 1 / number) / math.sqrt(number - 1)
            total += (product[i][j] / size - etf) ** 2
    return math.sqrt(total)
