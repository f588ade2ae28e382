"""Adds up the accuracy and the loss of the batches of a split."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ncfast._validate import LABEL_DTYPES, has_float64
from ncfast.ops._raw import as_int64
from ncfast.tracking.numbers import as_number

LossFunction = Callable[[Any, Any], Any]


Reduction = Literal["mean", "sum", "none"]


class Scores:
    """The accuracy and the loss of a split, summed over the rows that are not left out.

    Args:
        loss: a function of outputs and labels, or None.
        reduction: what ``loss`` does with the samples of a batch.
        num_classes: K.
        ignore_index: rows with this label are left out; None leaves out none.

    Attributes:
        rows: the number of rows, those that are left out included.
        counted: the number of rows that are not left out.
        sums: the number of correct predictions and the sum of the losses, by name, () float64.
    """

    def __init__(
        self,
        loss: LossFunction | None,
        reduction: Reduction,
        num_classes: int,
        ignore_index: int | None,
    ) -> None:
        self._loss, self._reduction = loss, reduction
        self._num_classes, self._ignore_index = num_classes, ignore_index
        self.rows = 0
        self.counted: Tensor | float = 0.0
        self.sums: dict[str, Tensor] = {}

    def add(self, outputs: Any, labels: Tensor, mask: Tensor | None) -> None:
        """Add a batch, of which the mask leaves out rows where it is zero."""
        loss = None if self._loss is None else self._loss(outputs, labels)
        if not has_float64(labels.device):
            labels, mask = labels.cpu(), None if mask is None else mask.cpu()
            outputs, loss = (x.cpu() if isinstance(x, Tensor) else x for x in (outputs, loss))
        rows = len(labels)
        self.rows += rows
        indices = labels.dtype in LABEL_DTYPES  # others, such as soft labels, have a loss alone
        labels = as_int64(labels) if indices else labels
        shape = labels.shape if indices else (rows,)
        counted = torch.ones(shape, dtype=torch.bool, device=labels.device)
        counted = counted if mask is None else mask > 0
        if self._ignore_index is not None and indices:
            counted = counted & (labels != self._ignore_index)
        number = counted.sum(dtype=torch.float64)
        self.counted = self.counted + number
        scores: dict[str, Tensor] = {}
        logits = isinstance(outputs, Tensor) and outputs.shape == (*labels.shape, self._num_classes)
        if logits and indices:
            scores["accuracy"] = (counted & (outputs.argmax(-1) == labels)).sum(dtype=torch.float64)
        if self._loss is not None:
            scores["loss"] = self._total_loss(loss, rows, counted)
        for name, value in scores.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def _total_loss(self, value: Any, rows: int, counted: Tensor) -> Tensor:
        """The sum of the losses of a batch; a mean is one over the rows that are not left out."""
        if isinstance(value, Tensor) and value.ndim and value.shape == counted.shape:
            return torch.where(counted, value.detach(), 0).sum(dtype=torch.float64)
        number = counted.sum(dtype=torch.float64)
        total = total_loss(value, rows, self._reduction)
        if self._reduction == "sum" or np.ndim(value):
            return total
        # torch's mean over no row is NaN
        return torch.where(number > 0, total * (number / rows), 0.0)


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
    owner = getattr(loss, "__self__", None)  # a method that is bound to a module
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
