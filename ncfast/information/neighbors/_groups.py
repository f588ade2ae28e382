"""Groups rows by class, for searches among members of the same class."""

from __future__ import annotations

import torch
from torch import Tensor


def groups(labels: Tensor | None, like: Tensor) -> list[Tensor]:
    """Row numbers of each class, ascending within a class. Without labels there is one group."""
    if labels is None:
        return [torch.arange(len(like), device=like.device)]
    order = torch.sort(labels, stable=True).indices
    _, counts = torch.unique(labels, return_counts=True)
    return list(order.split(counts.tolist()))


def restored(values: Tensor, order: Tensor | None) -> Tensor:
    """Rows in their original order, after a sort by class.

    ``order``: (N,) original number of each row; None if the rows were not sorted.
    """
    return values if order is None else torch.empty_like(values).index_copy_(0, order, values)
