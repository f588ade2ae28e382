"""`Group` connects the processes that evaluate together, each with its share of the data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ncfast import _ranks
from ncfast._ranks import as_group
from ncfast.accumulator import Accumulator


class Group:
    """One process, or those of a process group.

    Args:
        group: None for this process alone, "auto" for all ranks if there are several, or a group.

    Raises:
        ValueError: it is none of these.

    Attributes:
        rank: the rank of this process.
        size: the number of processes.
    """

    def __init__(self, group: Any) -> None:
        self._several, self._group = as_group(group)
        self.rank = dist.get_rank(self._group) if self._several else 0
        self.size = dist.get_world_size(self._group) if self._several else 1

    def reduce(self, accumulators: Iterable[Accumulator]) -> None:
        """Merge the accumulators with those of the other ranks."""
        if self._several:
            for accumulator in accumulators:
                accumulator.all_reduce(self._group)

    def summed(self, values: Tensor) -> list[float]:
        """Sums over the ranks of a (n,) float64 tensor, as Python numbers."""
        if self._several:
            device = "cuda" if dist.get_backend(self._group) == "nccl" else "cpu"
            shapes = f"{len(values)} counts"
            values = _ranks.gather(values.to(device), "evaluate", shapes, self._group).sum(0)
        found: list[float] = values.tolist()
        return found

    def all(self, flag: bool) -> bool:
        """Whether the flag holds on every rank."""
        return self._count(flag) == self.size

    def any(self, flag: bool) -> bool:
        """Whether the flag holds on some rank."""
        return self._count(flag) > 0

    def _count(self, flag: bool) -> float:
        return self.summed(torch.tensor([float(flag)], dtype=torch.float64))[0]
