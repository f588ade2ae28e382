"""Inputs and labels of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

LABEL_KEYS = ("labels", "label", "targets", "target", "y")


def inputs_and_labels(batch: Any) -> tuple[Any, Tensor]:
    """The first two items of a sequence, or the first entry (None) and the labels of a dict.

    Raises:
        TypeError: the batch is neither, or has no labels.

    Example:
        >>> import torch
        >>> inputs_and_labels({"image": "pixels", "label": torch.tensor([1])})
        ('pixels', tensor([1]))
    """
    if isinstance(batch, Mapping):
        key = next((key for key in LABEL_KEYS if key in batch), None)
        if key is not None:
            return next((value for name, value in batch.items() if name != key), None), batch[key]
    elif isinstance(batch, (list, tuple)) and len(batch) >= 2 and isinstance(batch[1], Tensor):
        return batch[0], batch[1]
    raise TypeError(
        "Expected a batch to be (inputs, labels, ...) or a dict with labels under one of "
        f"{LABEL_KEYS} but got {_kind(batch)}. Pass unpack=, a function from a batch to inputs and "
        "labels."
    )


def _kind(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a dict with {list(batch)}"
    if isinstance(batch, (list, tuple)):
        return f"{type(batch).__name__} of {[type(item).__name__ for item in batch]}"
    return type(batch).__name__
