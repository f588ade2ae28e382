"""The mean loss of a split, from a loss function of any reduction."""

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
    """What a loss function does with the samples of a batch: "sum" adds them, "mean" all else.

    Args:
        loss: a module with ``reduction`` or a method of one, a ``functools.partial`` of these or of
            one of torch's functions, or any function.
        given: overrides it.

    Raises:
        ValueError: ``given`` is neither.
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
    """Sum of the losses of a batch, () float64.

    Args:
        value: what the loss function returned: one number, or a loss for each sample, (N, ...),
            of which the mean over the further axes counts. Numbers are those of `as_number`.
        rows: N.
        reduction: what one number is; "none", there is one for each sample.

    Raises:
        TypeError: it is no real number and no tensor of these.
        ValueError: its length is not N.
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
