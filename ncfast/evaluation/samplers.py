"""Counts the rows of a batch without those that a sampler repeats to give all ranks as many."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DistributedSampler


class OwnRows:
    """Follows the batches of a loader, and tells how many of their first rows to measure."""

    def __init__(self, loader: Any) -> None:
        self._loader, self._number, self._seen = loader, 0, 0

    def of(self, size: int) -> int:
        """The number of rows of the next batch, of ``size`` rows, that no sampler has repeated."""
        rows = own_rows(self._loader, self._number, self._seen, size)
        self._number, self._seen = self._number + 1, self._seen + size
        return rows


def own_rows(loader: Any, number: int, seen: int, size: int) -> int:
    """The number of first rows of a batch that no sampler has added to give all ranks as many.

    `torch.utils.data.DistributedSampler` and accelerate's ``BatchSamplerShard`` repeat samples at
    the end of an epoch, so that every rank gets as many.

    Args:
        loader: a DataLoader; all rows of any other object count.
        number: the number of the batch on this rank, from 0.
        seen: the number of rows in the earlier batches of this rank.
        size: the number of rows in the batch.
    """
    sampler, shard = getattr(loader, "sampler", None), _shard(loader)
    if isinstance(sampler, DistributedSampler) and not sampler.drop_last:
        # local row p is row p * W + r of the data set
        total = -(-(len(sampler.dataset) - sampler.rank) // sampler.num_replicas)  # type: ignore[arg-type]
        return min(max(total - seen, 0), size)
    if shard is not None:
        world, batch = shard.num_processes, shard.batch_sampler.batch_size
        batch = batch // world if shard.split_batches else batch
        first = (number * world + shard.process_index) * batch
        return min(max(len(shard.batch_sampler.sampler) - first, 0), size)
    return size


def _shard(loader: Any) -> Any:
    """The batch sampler with which accelerate gives every rank its share."""
    found = getattr(loader, "batch_sampler", None)
    return found if type(found).__name__ == "BatchSamplerShard" else None
