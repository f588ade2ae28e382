"""The mean loss of a split, from a loss function of any reduction."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

LossFunction = Callable[[Any, Any], Any]
Reduction = Literal["mean", "sum"]


def reduction_of(loss: LossFunction | None, given: Reduction | None) -> Reduction:
    """What a loss function does with the samples of a batch: "sum" adds them, "mean" all else.

    Args:
        loss: a module with ``reduction``, a ``functools.partial`` of one of torch's functions, or
            any function.
        given: overrides it.

    Raises:
        ValueError: ``given`` is neither.
    """
    if given not in (None, "mean", "sum"):
        raise ValueError(
            f"Expected argument `loss_reduction` to be None, 'mean' or 'sum' but got {given!r}."
        )
    if given is not None:
        return given
    found = getattr(loss, "reduction", None)
    if found is None and isinstance(loss, functools.partial):
        found = loss.keywords.get("reduction", getattr(loss.func, "reduction", None))
    return "sum" if found == "sum" else "mean"


def total_loss(value: Any, rows: int, reduction: Reduction) -> Tensor:
    """Sum of the losses of a batch, () float64.

    Args:
        value: what the loss function returned: one number, or a loss for each sample, (N, ...),
            of which the mean over the further axes counts.
        rows: N.
        reduction: what one number is.

    Raises:
        TypeError: it is no real number and no tensor of these.
        ValueError: its length is not N.
    """
    value = torch.as_tensor(value) if isinstance(value, (int, float)) else value
    if not isinstance(value, Tensor) or value.is_complex():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"Expected argument `loss` to return a real number but got {kind}.")
    value = value.detach().to(torch.float64)
    if value.ndim and len(value) == rows and (rows > 1 or value.ndim > 1):
        return value.sum() if reduction == "sum" else value.reshape(rows, -1).mean(1).sum()
    if value.numel() != 1:
        raise ValueError(
            "Expected argument `loss` to return one number, or one for each of the "
            f"{rows} samples, but got shape {tuple(value.shape)}. Use reduction='mean'."
        )
    return value.reshape(()) * (1 if reduction == "sum" else rows)
