"""Oracles of NC4, NC5 and the bounds."""

import math

import numpy as np
from oracle.statistics import global_mean, present_classes


def _nearest(stats, x):
    return min(present_classes(stats), key=lambda c: float(((x - stats["means"][c]) ** 2).sum()))


def _chosen(stats, x):
    logits = stats["weight"] @ x
    return int(np.argmax(logits if stats["bias"] is None else logits + stats["bias"]))


def agreements(stats):
    return [_nearest(stats, x) == _chosen(stats, x) for x in stats["x"]]


def hits(stats):
    return [_nearest(stats, x) == c for x, c in zip(stats["x"], stats["y"], strict=True)]


def by_class(stats, correct):
    return [
        np.mean([ok for ok, y in zip(correct, stats["y"], strict=True) if y == c])
        for c in present_classes(stats)
    ]


def ood_cosine(stats):
    outside = sum(stats["ood"]) / len(stats["ood"])
    means = [stats["means"][c] for c in present_classes(stats)]
    return np.mean(
        [
            abs(float(m @ outside)) / math.sqrt(float(m @ m) * float(outside @ outside))
            for m in means
        ]
    )


def _neco(stats):
    number, dim = len(present_classes(stats)) - 1, stats["x"].shape[1]
    if number >= dim:
        return [1.0] * len(stats["x"]), [1.0] * len(stats["ood"])
    centre = global_mean(stats)
    _, vectors = np.linalg.eigh(np.cov((stats["x"] - centre).T, bias=True).reshape(dim, dim))
    top = vectors[:, -number:]
    return [
        [np.linalg.norm((g - centre) @ top) / np.linalg.norm(g - centre) for g in rows]
        for rows in (stats["x"], stats["ood"])
    ]


def neco_auroc(stats):
    inside, outside = _neco(stats)
    wins = sum((a > b) + 0.5 * (a == b) for a in inside for b in outside)
    return wins / (len(inside) * len(outside))


def neco_fpr95(stats):
    inside, outside = _neco(stats)
    threshold = sorted(inside, reverse=True)[math.ceil(0.95 * len(inside)) - 1]
    return sum(b >= threshold for b in outside) / len(outside)


def _bound(stats, variance):
    weight, bias = stats["weight"], stats["bias"]
    bias = np.zeros(len(weight)) if bias is None else bias
    total = 0.0
    for c in present_classes(stats):
        rows = stats["x"][stats["y"] == c] - stats["means"][c]
        for k in range(len(weight)):
            if k == c:
                continue
            normal = weight[c] - weight[k]
            length = math.sqrt(float(normal @ normal))
            margin = (float(normal @ stats["means"][c]) + bias[c] - bias[k]) / length
            spread = variance(rows, normal / length)
            term = 1.0 if margin <= 0 else 1 / (1 + margin**2 / spread) if spread else 0.0
            total += len(rows) / len(stats["x"]) * term
    return total


def generalization(stats):
    return _bound(stats, lambda rows, normal: float(((rows @ normal) ** 2).mean()))


def generalization_trace(stats):
    return _bound(stats, lambda rows, normal: float((rows**2).sum() / len(rows)))
