"""Random inputs of the fuzzed calls: odd shapes, dtypes, layouts, labels and numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Sample(NamedTuple):
    """Features and labels as they are passed, and as plain float64 and int64.

    Attributes:
        feats: tensor or array (N, D).
        labels: tensor or array (N,).
        x: (N, D) float64, what `feats` holds.
        y: (N,) int64, what `labels` holds.
        classes: K.
        kind: a word for the report.
    """

    feats: Any
    labels: Any
    x: Tensor
    y: Tensor
    classes: int
    kind: str


def sample(rng: np.random.Generator, *, rows: int = 40, extreme: bool = False) -> Sample:
    """A random sample.

    Args:
        rng: of the choice.
        rows: N at most.
        extreme: also features far from the origin and of scales up to 1e100.
    """
    count = int(rng.integers(1, rows + 1))
    dim = int(rng.choice([1, 2, 3, 5, 8, 17, 33]))
    classes = int(rng.integers(1, 9))
    y = _labels(rng, count, classes)
    dtype = FLOATS[rng.integers(4)]
    kind, x = _features(rng, y, classes, dim, dtype, extreme=extreme)
    stored = torch.from_numpy(x).to(dtype)
    labels = torch.from_numpy(y).to(INTEGERS[rng.integers(5)])
    layout, feats = _laid_out(rng, stored)
    return Sample(
        feats,
        labels.numpy() if isinstance(feats, np.ndarray) else labels,
        stored.to(torch.float64),
        labels.to(torch.int64),
        classes,
        f"{kind}, {layout}, {dtype}, N {count}, D {dim}, K {classes}",
    )


def _labels(rng: np.random.Generator, count: int, classes: int) -> np.ndarray[Any, Any]:
    """Balanced, imbalanced, sorted, with absent classes, or of one class."""
    kind = rng.integers(5)
    if kind == 0:
        return np.arange(count) % classes
    if kind == 1:
        shares = rng.dirichlet(np.full(classes, 0.3))
        return rng.choice(classes, count, p=shares)
    if kind == 2:
        return np.sort(rng.integers(0, classes, count))
    if kind == 3:
        present = rng.choice(classes, max(1, classes // 2), replace=False)
        return rng.choice(present, count)
    return np.full(count, rng.integers(classes))


def _features(
    rng: np.random.Generator,
    y: np.ndarray[Any, Any],
    classes: int,
    dim: int,
    dtype: torch.dtype,
    *,
    extreme: bool,
) -> tuple[str, np.ndarray[Any, Any]]:
    """Gaussian, collapsed, equal, duplicated or sparse rows around the means of their classes."""
    means = rng.standard_normal((classes, dim))
    noise = rng.standard_normal((len(y), dim))
    kind = str(rng.choice(["plain", "collapsed", "equal", "duplicates", "sparse", "far", "scaled"]))
    x = means[y] + 0.5 * noise
    if kind == "collapsed":
        x = means[y] + 10.0 ** rng.uniform(-6, -1) * noise
    elif kind == "equal":
        x = means[y]
    elif kind == "duplicates":
        x = np.repeat(x, 2, axis=0)[: len(y)]
    elif kind == "sparse":
        x = np.maximum(x, 0)
    wide = dtype in (torch.float64, torch.float32)
    if kind == "far" and wide:
        x = x + 10.0 ** rng.uniform(0, 10 if extreme and dtype == torch.float64 else 3)
    if kind == "scaled" and wide:
        most = 100 if extreme and dtype == torch.float64 else 15
        x = x * 10.0 ** rng.uniform(-most, most)
    return kind, x


def _laid_out(rng: np.random.Generator, stored: Tensor) -> tuple[str, Any]:
    """The same numbers in another layout of memory, or as an array."""
    kind = str(
        rng.choice(["plain", "transposed", "strided", "offset", "array", "backwards", "neg"])
    )
    if kind == "transposed":
        return kind, stored.T.contiguous().T
    if kind == "strided":
        wide = torch.full((2 * len(stored), stored.shape[1] + 3), torch.nan, dtype=stored.dtype)
        wide[::2, : stored.shape[1]] = stored
        return kind, wide[::2, : stored.shape[1]]
    if kind == "offset":
        flat = torch.full((stored.numel() + 1,), torch.nan, dtype=stored.dtype)
        flat[1:] = stored.flatten()
        return kind, flat[1:].view(stored.shape)
    if kind == "array" and stored.dtype != torch.bfloat16:
        array = stored.numpy()
        array.setflags(write=False)
        return kind, array
    if kind == "backwards" and stored.dtype != torch.bfloat16:
        return kind, np.ascontiguousarray(stored.numpy()[::-1])[::-1]
    if kind == "neg":
        return kind, torch._neg_view(-stored)
    return "plain", stored


def classifier(rng: np.random.Generator, classes: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """A weight, a bias, and 1 to 20 rows from outside, in float64."""
    shapes = ((classes, dim), (classes,), (int(rng.integers(1, 21)), dim))
    weight, bias, outside = (torch.from_numpy(rng.standard_normal(shape)) for shape in shapes)
    return weight, bias, outside
