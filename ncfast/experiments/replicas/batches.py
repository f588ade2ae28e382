"""Batches for several replicas at once, each in its own order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import ImageSet
from ncfast.experiments.order import BatchOrder

# a training split up to this size is normalised once and kept in float32
KEPT_BYTES = 1 << 29


class ReplicaBatches:
    """The next batch of every replica.

    Args:
        configs: of the replicas; all with the same batch size.
        train: their training split, on the device.
    """

    def __init__(self, configs: Sequence[TrainConfig], train: ImageSet) -> None:
        size = configs[0].effective_batch_size(len(train))
        self.orders = [BatchOrder(len(train), size, config.seed) for config in configs]
        self._train = train
        self._ready: tuple[Tensor, Tensor] | None = None
        if 4 * train.inputs.numel() <= KEPT_BYTES:
            self._ready = train.batch(slice(None))

    def indices(self) -> Tensor:
        """(R, B) int64 on the CPU: the next rows of each replica."""
        return torch.stack([order.next() for order in self.orders])

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (R, B, ...) and labels (R, B) at (R, B) ``indices``, all on the device."""
        flat = indices.flatten()
        if self._ready is None:
            inputs, labels = self._train.batch(flat)
        else:
            inputs, labels = (values.index_select(0, flat) for values in self._ready)
        return inputs.unflatten(0, indices.shape), labels.view(indices.shape)
