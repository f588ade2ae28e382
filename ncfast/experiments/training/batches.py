"""Draws the batches of several replicas at once, each replica in its own random order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import ImageSet

# a training split of at most this size in float32 is normalised once and kept
KEPT_BYTES = 1 << 29


class BatchOrder:
    """An endless sequence of batches of indices.

    Each epoch has a new permutation. The last batch of an epoch may be short.

    Args:
        size: number of samples.
        batch_size: indices per batch; a batch has at most ``size``.
        seed: seed of the generator; the global random stream is not used.

    Example:
        >>> order = BatchOrder(5, 2, seed=0)
        >>> [len(order.next()) for _ in range(4)]
        [2, 2, 1, 2]
    """

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        self._size, self._batch_size = size, batch_size
        self._generator = torch.Generator().manual_seed(seed)
        self._permutation = torch.empty(0, dtype=torch.int64)
        self._position = 0

    def next(self) -> Tensor:
        """The next batch of indices, (B,) int64 on the CPU."""
        if self._position >= len(self._permutation):
            self._permutation = torch.randperm(self._size, generator=self._generator)
            self._position = 0
        start, self._position = self._position, self._position + self._batch_size
        return self._permutation[start : self._position]

    def state_dict(self) -> dict[str, Tensor]:
        """The complete state, as tensors: it determines all further batches."""
        return {
            "generator": self._generator.get_state(),
            "permutation": self._permutation.clone(),
            "position": torch.tensor(self._position),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state that `state_dict` returned.

        Raises:
            ValueError: the state does not fit the number of samples.
        """
        permutation, position = state["permutation"], int(state["position"])
        ordered = permutation.sort().values
        if len(permutation) and not torch.equal(ordered, torch.arange(self._size)):
            raise ValueError(f"the order is no permutation of {self._size} samples")
        if position < 0:
            raise ValueError(f"position {position} in the order is negative")
        self._generator.set_state(state["generator"])
        self._permutation, self._position = permutation.clone(), position


class ReplicaBatches:
    """The batches of all replicas.

    Args:
        configs: settings of the replicas, all with the same batch size.
        train: the training split, on the device.
    """

    def __init__(self, configs: Sequence[TrainConfig], train: ImageSet) -> None:
        size = configs[0].effective_batch_size(len(train))
        self.orders = [BatchOrder(len(train), size, config.seed) for config in configs]
        self._train = train
        self._ready: tuple[Tensor, Tensor] | None = None
        if 4 * train.inputs.numel() <= KEPT_BYTES:
            self._ready = train.batch(slice(None))

    def indices(self) -> Tensor:
        """Indices of the next batch of each replica, (R, B) int64 on the CPU."""
        return torch.stack([order.next() for order in self.orders])

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (R, B, ...) and labels (R, B) at (R, B) ``indices``, all on the device."""
        flat = indices.flatten()
        if self._ready is None:
            inputs, labels = self._train.batch(flat)
        else:
            inputs, labels = (values.index_select(0, flat) for values in self._ready)
        return inputs.unflatten(0, indices.shape), labels.view(indices.shape)
