"""Inputs, labels and loss of the batches of a split, and how a model takes them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ncfast.tracking.numbers import as_number

LABEL_KEYS = ("labels", "label", "targets", "target", "y")


def inputs_and_labels(batch: Any) -> tuple[Any, Any]:
    """The first two entries of a tuple or list; of a dict the labels, and all else.

    Where a dict has one entry beside the labels, that entry is the input.

    Raises:
        TypeError: the batch is neither, or has no labels.

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


def as_labels(labels: Any, device: torch.device) -> Tensor:
    """Labels as a tensor on ``device``, of at least one axis.

    Raises:
        TypeError: they are no tensor, array or list of numbers.
    """
    if not isinstance(labels, (Tensor, np.ndarray, list, tuple, int, np.integer)):
        raise TypeError(
            "Expected the labels of a batch to be a tensor or an array but got "
            f"{_kind(labels)}. Yield (inputs, labels)."
        )
    return torch.atleast_1d(torch.as_tensor(labels, device=device))


def outputs_of(model: nn.Module, inputs: Any, device: torch.device) -> Any:
    """What the model makes of the inputs of a batch, moved to ``device``.

    A dict is passed by keyword and a tuple by position if the model takes its entries so;
    everything else is the only argument. Arrays become tensors.
    """
    inputs = _moved(inputs, device)
    if isinstance(inputs, Mapping) and _takes(model, lambda s: s.bind(**inputs)):
        return model(**inputs)
    if isinstance(inputs, tuple) and _takes(model, lambda s: s.bind(*inputs)):
        return model(*inputs)
    # a DataLoader makes a list of a tuple
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
