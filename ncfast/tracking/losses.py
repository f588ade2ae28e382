"""Adds up what a loss function returns for the batches of a split."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ncfast.tracking.numbers import as_number

LossFunction = Callable[[Any, Any], Any]


Reduction = Literal["mean", "sum", "none"]


def reduction_of(loss: LossFunction | None, given: Reduction | None) -> Reduction:
    """The reduction of a loss function over the samples of a batch: "sum" if it says so, or "mean".

    Args:
        loss: a module with an attribute ``reduction``, a method of one, a ``functools.partial`` of
            these or of one of torch's functions, or any function.
        given: the user's choice, which takes precedence.

    Raises:
        ValueError: ``given`` is no reduction.
    """
    if given not in (None, "mean", "sum", "none"):
        raise ValueError(
            "Expected argument `loss_reduction` to be None, 'mean', 'sum' or 'none' but got "
            f"{given!r}."
        )
    if given is not None:
        return given
    return "sum" if _stated(loss) == "sum" else "mean"


def _stated(loss: Any) -> Any:
    if isinstance(loss, functools.partial):
        return loss.keywords.get("reduction", _stated(loss.func))
    owner = getattr(loss, "__self__", None)  # of a bound method
    return getattr(loss, "reduction", getattr(owner, "reduction", None))


def total_loss(value: Any, rows: int, reduction: Reduction) -> Tensor:
    """The sum of the losses over the samples of a batch, () float64.

    Args:
        value: the loss function's result: one number that `as_number` takes, or a loss for each
            sample, (N, ...), which is averaged over the further axes.
        rows: N.
        reduction: what one number is, the mean or the sum; "none" asks for one for each sample.

    Raises:
        TypeError: the value is no real number and no tensor of real numbers.
        ValueError: its shape is neither () nor (N, ...).
    """
    value = _as_tensor(value).detach().to(torch.float64)
    if value.ndim and len(value) == rows and (rows > 1 or value.ndim > 1):
        return value.sum() if reduction == "sum" else value.reshape(rows, -1).mean(1).sum()
    if value.numel() != 1 or (reduction == "none" and rows > 1):
        raise ValueError(
            "Expected argument `loss` to return one number, or one for each of the "
            f"{rows} samples, but got shape {tuple(value.shape)}. Use reduction='mean'."
        )
    return value.reshape(()) * (1 if reduction == "sum" else rows)


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        value = torch.as_tensor(value.astype(np.float64))
    if isinstance(value, Tensor) and not value.is_complex():
        return value
    try:
        return torch.as_tensor(as_number("loss", value), dtype=torch.float64)
    except TypeError as error:
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(
            f"Expected argument `loss` to return a real number but got {kind}."
        ) from error
