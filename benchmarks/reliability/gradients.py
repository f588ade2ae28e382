"""Fuzzed losses: value and gradient against torch's own derivative of the definition in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

import ncfast
from ncfast.benchmarks.reliability import inputs
from ncfast.benchmarks.reliability.truth import problem


def losses(rng: np.random.Generator) -> Iterator[str]:
    """Each loss on both backends."""
    classes, dim = int(rng.integers(2, 6)), int(rng.integers(2, 9))
    y = torch.from_numpy(rng.permutation(np.arange(int(rng.integers(2 * classes, 40))) % classes))
    centres = rng.standard_normal((classes, dim))
    x = centres[y.numpy()] + 10.0 ** rng.uniform(-3, 0) * rng.standard_normal((len(y), dim))
    stored = torch.from_numpy(10.0 ** rng.uniform(-2, 2) * x).to(inputs.FLOATS[rng.integers(2, 4)])
    tolerance = 1e-9 if stored.dtype == torch.float64 else 1e-4
    for name, definition in _DEFINITIONS.items():
        wide = stored.to(torch.float64).requires_grad_()
        expected = definition(wide, y, classes)
        (slope,) = torch.autograd.grad(expected, wide)
        for backend in ("cpu", "reference"):
            own = stored.clone().requires_grad_()
            value = getattr(ncfast.losses, name)(own, y, num_classes=classes, backend=backend)
            (found,) = torch.autograd.grad(value, own)
            wrong = problem(float(value), float(expected), tolerance, 1e-12)
            # two classes are an ETF whatever they are: the value is rounding, the slope as well
            level = slope.abs().max() + (1 / wide.detach().abs().max() if classes == 2 else 0)
            off = float((found.to(torch.float64) - slope.nan_to_num()).abs().max() / level)
            if not wrong and not off <= max(tolerance, 1e-6 * (classes == 2)):
                wrong = f"gradient off by {off:.3g}"
            yield f"{name} on {backend}: {wrong}" if wrong else ""


def _means(x: Tensor, y: Tensor, classes: int) -> Tensor:
    return torch.stack([x[y == c].mean(0) for c in range(classes)])


def _trace(x: Tensor, y: Tensor, classes: int) -> Tensor:
    return (x - _means(x, y, classes)[y]).square().sum() / len(x)


def _rnc1(x: Tensor, y: Tensor, classes: int) -> Tensor:
    return _trace(x, y, classes) / x.detach().square().sum(1).max()  # a constant scale


def _cdnv(x: Tensor, y: Tensor, classes: int) -> Tensor:
    means = _means(x, y, classes)
    spread = torch.stack([(x[y == c] - means[c]).square().sum(1).mean() for c in range(classes)])
    pairs = [(i, j) for i in range(classes) for j in range(i)]
    each = [(spread[i] + spread[j]) / (2 * (means[i] - means[j]).square().sum()) for i, j in pairs]
    return torch.stack(each).mean()


def _etf_error(x: Tensor, y: Tensor, classes: int) -> Tensor:
    means = _means(x, y, classes)
    gram = (means - means.mean(0)) @ (means - means.mean(0)).T
    simplex = (torch.eye(classes, dtype=torch.float64) - 1 / classes) / (classes - 1) ** 0.5
    return torch.linalg.matrix_norm(gram / torch.linalg.matrix_norm(gram) - simplex)


_DEFINITIONS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "within_class_variance": _trace,
    "rnc1": _rnc1,
    "cdnv": _cdnv,
    "etf_error": _etf_error,
}
