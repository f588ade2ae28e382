"""The gradient of Tr(Sigma_W) with respect to the features, forward and backward pass together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import ncfast
from ncfast.benchmarks import availability
from ncfast.benchmarks.registry import PROMISE, RIGHT, Call, Case, Contestant, Inputs, Operation
from ncfast.benchmarks.samples import classes, relative_error

QUICK: list[dict[str, Any]] = [
    {"N": 10_000, "D": 256, "K": 10, "dtype": "float32"},
    {"N": 10_000, "D": 256, "K": 10, "dtype": "float32", "spread": 1e-5},
]
FULL: list[dict[str, Any]] = [
    {"N": 1000, "D": 200, "K": 10, "dtype": "float32"},
    {"N": 50_000, "D": 512, "K": 10, "dtype": "float32"},
    {"N": 50_000, "D": 512, "K": 1000, "dtype": "float32"},
    {"N": 50_000, "D": 512, "K": 100, "dtype": "bfloat16"},
    {"N": 50_000, "D": 512, "K": 10, "dtype": "float32", "spread": 1e-5},
]


def cases(quick: bool) -> list[Case]:
    """Two reads of the features and one write of their gradient, rounded to their dtype."""
    found = []
    for sizes in QUICK if quick else FULL:
        n, d, dtype = sizes["N"], sizes["D"], getattr(torch, sizes["dtype"])
        moved = 3 * n * d * dtype.itemsize + 16 * n
        rounding = torch.finfo(dtype).eps / 2
        allowed = {"promise": max(PROMISE, rounding), "budget": max(RIGHT, rounding)}
        found.append(Case(sizes, bytes=moved, flops=8 * n * d, quick=quick, **allowed))
    return found


def truth(inputs: Inputs) -> dict[str, Tensor]:
    """2 (x - mu_c) / N in float64."""
    x, y, k = inputs["feats"].double(), inputs["labels"], inputs["k"]
    return {"gradient": 2 * (x - means_of(x, y, k)[y]) / len(x)}


def means_of(x: Tensor, y: Tensor, k: int) -> Tensor:
    counts = torch.bincount(y, minlength=k).clamp(min=1)
    return x.new_zeros(k, x.shape[1]).index_add(0, y, x) / counts[:, None].to(x.dtype)


def ours(x: Tensor, y: Tensor, k: int, backend: str) -> Tensor:
    return ncfast.losses.within_class_variance(x, y, num_classes=k, backend=backend)


def two_passes(x: Tensor, y: Tensor, k: int, dtype: torch.dtype) -> Tensor:
    wide = x.to(dtype)
    return (wide - means_of(wide, y, k)[y]).square().sum() / len(x)


def masks(x: Tensor, y: Tensor, k: int, dtype: torch.dtype) -> Tensor:
    """A loop over the classes, as published codes have it."""
    wide = x.to(dtype)
    total = wide.new_zeros(())
    for c in range(k):
        rows = wide[y == c]
        if len(rows):
            total = total + (rows - rows.mean(0)).square().sum()
    return total / len(x)


def differentiated(inputs: Inputs, loss: Callable[..., Tensor]) -> Call:
    feats = inputs["feats"].clone().requires_grad_()
    labels, k = inputs["labels"], inputs["k"]
    return lambda: {"gradient": torch.autograd.grad(loss(feats, labels, k), feats)[0]}


def _plain(label: str, function: Any, dtype: torch.dtype) -> Contestant:
    name = f"autograd, {label}, {str(dtype).removeprefix('torch.')}"
    loss = partial(function, dtype=dtype)
    return Contestant(name, "torch", partial(differentiated, loss=loss))


def _with_backend(name: str) -> Callable[[Inputs], Call]:
    return partial(differentiated, loss=partial(ours, backend=name))


CONTESTANTS = [
    *availability.backends(_with_backend),
    _plain("two passes", two_passes, torch.float32),
    _plain("two passes", two_passes, torch.float64),
    _plain("a mask by class", masks, torch.float32),
]

OPERATION = Operation("gradient", cases, classes, truth, relative_error, CONTESTANTS)
