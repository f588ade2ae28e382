"""Reads the batches of a split: their inputs and labels, the model's outputs, and the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncfast._arrays import as_tensor

MASK = "attention_mask"
LABEL_KEYS = ("labels", "label", "targets", "target", "y")


def inputs_and_labels(batch: Any) -> tuple[Any, Any]:
    """The inputs and the labels of a batch.

    A tuple or list holds them in its first two entries. In a dict the inputs are all entries but
    the labels; if there is only one such entry, it is returned itself.

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
        f"{LABEL_KEYS}, but got {_kind(batch)}. Yield such batches, from a list or a "
        "generator; two tensors are one batch: [(inputs, labels)]."
    )


def inputs_of(batch: Any) -> Any:
    """The inputs of a batch that may have no labels.

    A tuple or list holds them in its first entry. In a dict they are all entries but the labels; if
    there is only one such entry, it is returned itself. Any other batch is the inputs.
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


def _kind(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a dict with {list(batch)}"
    if isinstance(batch, (list, tuple)):
        return f"a {type(batch).__name__} of {[type(item).__name__ for item in batch]}"
    shape = f" of shape {tuple(batch.shape)}" if hasattr(batch, "shape") else ""
    return type(batch).__name__ + shape
