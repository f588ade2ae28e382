"""Rows by class, for searches among members of the same class."""

from __future__ import annotations

import torch
from torch import Tensor


def groups(labels: Tensor | None, like: Tensor) -> list[Tensor]:
    """Row numbers of each class, ascending within a class; one group without labels."""
    if labels is None:
        return [torch.arange(len(like), device=like.device)]
    order = torch.sort(labels, stable=True).indices
    _, counts = torch.unique(labels, return_counts=True)
    return list(order.split(counts.tolist()))
