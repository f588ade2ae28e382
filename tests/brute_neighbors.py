"""Oracle of the neighbor tests: neighbors and counts in float64 NumPy, one row at a time."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def scores(x: np.ndarray, row: int, metric: str) -> np.ndarray:
    total = np.zeros(len(x))
    for column in range(x.shape[1]):
        gap = x[:, column] - x[row, column]
        total = total + gap * gap if metric == "l2" else np.maximum(total, np.abs(gap))
    return total


def distances(x: np.ndarray, row: int, metric: str) -> np.ndarray:
    total = scores(x, row, metric)
    return np.sqrt(total) if metric == "l2" else total


def knn(x: Tensor, k: int, metric: str, labels: Tensor | None = None):
    points = x.double().numpy()
    out = np.full((len(points), k), np.inf)
    ids = np.full((len(points), k), -1)
    for row in range(len(points)):
        others = _others(len(points), row, labels)
        score = scores(points, row, metric)[others]
        order = np.lexsort((others, score))[:k]
        near = score[order]
        out[row, : len(order)] = np.sqrt(near) if metric == "l2" else near
        ids[row, : len(order)] = others[order]
    return out, ids


def count(x: Tensor, radii: np.ndarray, metric: str, strict: bool, labels: Tensor | None = None):
    points = x.double().numpy()
    result = np.zeros(len(points), dtype=np.int64)
    for row in range(len(points)):
        near = distances(points, row, metric)[_others(len(points), row, labels)]
        result[row] = (near < radii[row]).sum() if strict else (near <= radii[row]).sum()
    return result


def joint(blocks, k: int, metric: str, rectangle: bool, labels: Tensor | None = None):
    wide = [block.double().numpy() for block in blocks]
    number = len(wide[0])
    radii, ties = np.full(number, np.inf), np.zeros(number, dtype=np.int64)
    extents = [np.full(number, np.inf) for _ in wide]
    for row in range(number):
        others = _others(number, row, labels)
        each = [scores(block, row, metric)[others] for block in wide]
        together = np.maximum.reduce(each)
        if len(others) >= k:
            order = np.lexsort((others, together))[:k]
            root = np.sqrt if metric == "l2" else np.abs
            radii[row] = root(together[order[-1]])
            for extent, block in zip(extents, each, strict=True):
                extent[row] = root(block[order].max())
        near = np.sqrt(together) if metric == "l2" else together
        ties[row] = (near <= radii[row]).sum()
    counts = [
        count(block, extent if rectangle else radii, metric, not rectangle, labels)
        for block, extent in zip(blocks, extents, strict=True)
    ]
    return radii, counts, extents, ties


def _others(number: int, row: int, labels: Tensor | None) -> np.ndarray:
    others = np.arange(number)
    keep = others != row
    if labels is not None:
        keep &= labels.numpy() == int(labels[row])
    return others[keep]
