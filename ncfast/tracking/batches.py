"""Reads the batches of a split: their inputs and labels, the model's outputs, and the loss."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ncfast._arrays import as_tensor
from ncfast.tracking.numbers import as_number

LABEL_KEYS = ("labels", "label", "targets", "target", "y")


def inputs_and_labels(batch: Any) -> tuple[Any, Any]:
    """The inputs and the labels of a batch.

    Of a tuple or list these are the first two entries. Of a dict the inputs are all entries but the
    labels, or the only other entry itself.

    Raises:
        TypeError: the batch is no tuple, list or dict, or has no labels.

    Example:
        >>> inputs_and_labels({"image": "pixels", "label": [1]})
        ('pixels', [1])
    """
    if isinstance(batch, Mapping):
        key = next((key for key in LABEL_KEYS if key in batch), None)
        rest = {name: value for name, value in batch.items() if name != key}
        if key is not None and rest:
            return next(iter(rest.values())) if len(rest) == 1 else rest, batch[key]
    elif isinstance(batch, (list, tuple)) and len(batch) >= 2:
        return batch[0], batch[1]
    raise TypeError(
        "Expected each batch to be (inputs, labels, ...), or a dict with labels under one of "
        f"{LABEL_KEYS}, but got {_kind(batch)}. Yield such batches, from a list or a generator."
    )


def inputs_of(batch: Any) -> Any:
    """The inputs of a batch that may have no labels.

    Of a tuple or list these are the first entry; of a dict all entries but the labels, or the only
    other entry itself. Anything else is the inputs themselves.
    """
    if isinstance(batch, Mapping):
        rest = {key: value for key, value in batch.items() if key not in LABEL_KEYS}
        return next(iter(rest.values())) if len(rest) == 1 else rest
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def as_labels(labels: Any, device: torch.device) -> Tensor:
    """The labels as a tensor on ``device`` with at least one axis.

    Raises:
        TypeError: the labels are no tensor, array or list of numbers.
    """
    if not isinstance(labels, (Tensor, np.ndarray, list, tuple, int, np.integer)):
        raise TypeError(
            "Expected the labels of a batch to be a tensor or an array but got "
            f"{_kind(labels)}. Yield (inputs, labels)."
        )
    return torch.atleast_1d(as_tensor("labels", labels).to(device))


def outputs_of(model: nn.Module, inputs: Any, device: torch.device) -> Any:
    """The model's outputs for the inputs of a batch, which are moved to ``device``.

    The model gets a dict by keyword and a tuple by position if its signature allows, and anything
    else as its only argument. Arrays become tensors.
    """
    inputs = _moved(inputs, device)
    if isinstance(inputs, Mapping) and _takes(model, lambda s: s.bind(**inputs)):
        return model(**inputs)
    if isinstance(inputs, tuple) and _takes(model, lambda s: s.bind(*inputs)):
        return model(*inputs)
    # a DataLoader turns a tuple into a list
    if isinstance(inputs, list) and not _takes(model, lambda s: s.bind(inputs)):
        return model(*inputs)
    return model(inputs)


def _takes(model: nn.Module, bind: Callable[[inspect.Signature], object]) -> bool:
    try:
        bind(inspect.signature(model.forward))
    except (TypeError, ValueError):
        return False
    return True


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.as_tensor(value, device=device)
    if isinstance(value, Mapping):
        return {key: _moved(entry, device) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_moved(entry, device) for entry in value)
    return value.to(device) if hasattr(value, "to") else value


def _kind(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a dict with {list(batch)}"
    if isinstance(batch, (list, tuple)):
        return f"a {type(batch).__name__} of {[type(item).__name__ for item in batch]}"
    shape = f" of shape {tuple(batch.shape)}" if hasattr(batch, "shape") else ""
    return type(batch).__name__ + shape


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
