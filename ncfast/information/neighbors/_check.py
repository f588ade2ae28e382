"""Checks of the arguments of searches. They read values, so an accelerator synchronises."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ncfast._arrays import as_integer
from ncfast._validate import FEATURE_DTYPES, LABEL_DTYPES

_LARGEST = 1e150  # squares of larger values exceed the range of float64


def points(x: Tensor, name: str = "x") -> None:
    """Check that ``x`` is a finite (N, d) matrix of a floating-point type.

    Raises:
        TypeError: ``x`` is no tensor, or has another dtype.
        ValueError: ``x`` has another shape, no row or no column, or holds NaN or infinity.
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"Expected argument `{name}` to be a torch.Tensor but got {type(x).__name__}. "
            f"Convert it with torch.as_tensor({name})."
        )
    if x.dtype not in FEATURE_DTYPES:
        raise TypeError(
            f"Expected argument `{name}` to be float16, bfloat16, float32 or float64 but got "
            f"{x.dtype}. Convert it with {name}.double()."
        )
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(
            f"Expected argument `{name}` to have shape (N, d) with N, d > 0 but got shape "
            f"{tuple(x.shape)}. For one column use {name}.unsqueeze(1)."
        )
    # Both are NaN if any value is, so one pass without a copy finds all invalid values.
    low, high = x.detach().aminmax()
    if not -_LARGEST <= float(low) <= float(high) <= _LARGEST:
        _raise_value(x, name)


def _raise_value(x: Tensor, name: str) -> None:
    row, column = (~(x.abs() <= _LARGEST)).nonzero()[0].tolist()
    raise ValueError(
        f"Expected argument `{name}` to be finite, and at most {_LARGEST:g}, but row {row} holds "
        f"{float(x[row, column])} in column {column}. Drop such rows, or rescale."
    )


def blocks(each: Sequence[Tensor]) -> None:
    """Check that all blocks are finite matrices with the same number of rows, on one device."""
    if isinstance(each, Tensor) or len(each) == 0:
        raise ValueError(
            "Expected argument `blocks` to be a non-empty sequence of (N, d) tensors but got "
            f"{type(each).__name__}. Pass [x, y]."
        )
    for number, block in enumerate(each):
        points(block, f"blocks[{number}]")
        _same_rows(block, each[0], f"blocks[{number}]", "blocks[0]")


def _same_rows(y: Tensor, x: Tensor, name: str, other: str) -> None:
    if len(y) != len(x):
        raise ValueError(
            f"Expected arguments `{other}` and `{name}` to have the same length but got {len(x)} "
            f"and {len(y)}. Pass one row per sample."
        )
    if y.device != x.device:
        raise ValueError(
            f"Expected arguments `{other}` and `{name}` on the same device but got {x.device} and "
            f"{y.device}. Move one of them: {name}.to({x.device.type!r})."
        )


def neighbours_wanted(k: int, x: Tensor, labels: Tensor | None) -> int:
    """k, after a check that 1 <= k, and that k < N if there are no labels."""
    k = as_integer("k", k)
    if k < 1 or (labels is None and k >= len(x)):
        raise ValueError(
            f"Expected argument `k` to lie in 1..N-1 but got k = {k} with N = {len(x)}. "
            "Pass a smaller k, or more rows."
        )
    return k


def same_class(labels: Tensor | None, x: Tensor, name: str = "x") -> Tensor | None:
    """The labels as int64, after a check that they match ``x``."""
    if labels is None:
        return None
    if not isinstance(labels, Tensor) or labels.dtype not in LABEL_DTYPES:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(
            f"Expected argument `labels` to be a tensor of integers but got {got}. "
            "Pass class indices: labels.long()."
        )
    if labels.ndim != 1:
        raise ValueError(
            f"Expected argument `labels` to have shape (N,) but got {tuple(labels.shape)}. "
            "For one-hot rows use labels.argmax(1)."
        )
    _same_rows(labels, x, "labels", name)
    return labels.to(torch.int64).resolve_neg()


def radii(r: Tensor, x: Tensor) -> Tensor:
    """The radii as float64, after a check that they match ``x``."""
    if not isinstance(r, Tensor) or not r.dtype.is_floating_point or r.ndim != 1:
        got = f"{r.dtype}, {tuple(r.shape)}" if isinstance(r, Tensor) else type(r).__name__
        raise TypeError(
            f"Expected argument `radii` to be a floating-point tensor of shape (N,) but got {got}. "
            "Pass one distance per row: radii.double()."
        )
    _same_rows(r, x, "radii", "x")
    if bool(torch.isnan(r).any()):
        row = int(torch.isnan(r).nonzero()[0])
        raise ValueError(
            f"Expected argument `radii` to hold distances but row {row} holds nan. Drop such rows."
        )
    return r.to(torch.float64).resolve_neg()


def one_of(value: str, name: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"Expected argument `{name}` to be one of {allowed} but got {value!r}.")
