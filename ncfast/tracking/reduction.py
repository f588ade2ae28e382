"""Merges what the ranks of a distributed run have measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ncfast.backends.states import Layout, pack
from ncfast.distributed import all_reduce_many
from ncfast.moments import ClassMoments

Batches = list[tuple[Layout, Tensor]]
Reduce = Callable[[Batches], Batches]


def as_group(group: Any) -> tuple[bool, dist.ProcessGroup | None]:
    """Whether to reduce, and over which group, None being the default one.

    Args:
        group: None (no reduction), "auto" (over all ranks, if there are several) or a group.

    Raises:
        ValueError: it is none of these.
    """
    if group is None:
        return False, None
    if group == "auto":
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        return several, None
    if dist.is_available() and isinstance(group, dist.ProcessGroup):
        return True, group
    raise ValueError(
        f"Expected argument `group` to be None, 'auto' or a process group but got {group!r}."
    )


def reduce_moments(
    moments: Sequence[ClassMoments], group: dist.ProcessGroup | None
) -> list[ClassMoments]:
    """The same moments over all ranks, in one collective."""
    return all_reduce_many(moments, group)


def reduce_batches(batches: Batches, group: dist.ProcessGroup | None) -> Batches:
    """Packed moments (n, size) of several layers over all ranks, in one collective."""
    moments = [layout.unpack(state) for layout, states in batches for state in states]
    merged = iter(reduce_moments(moments, group))
    return [
        (layout, torch.stack([pack(next(merged)) for _ in states])) for layout, states in batches
    ]


def reduce_sums(values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Sums over all ranks."""
    total = values.clone()
    dist.all_reduce(total, group=group)
    return total
