"""The order of training samples, with a random stream of its own."""

from __future__ import annotations

import torch
from torch import Tensor


class BatchOrder:
    """Endless batches of indices: a fresh permutation each epoch, the last batch may be short.

    Args:
        size: number of samples.
        batch_size: indices a batch; at most ``size`` are given.
        seed: of its generator; the global random stream is untouched.

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
        """Everything that decides what comes next, as tensors."""
        return {
            "generator": self._generator.get_state(),
            "permutation": self._permutation.clone(),
            "position": torch.tensor(self._position),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue where `state_dict` was taken."""
        self._generator.set_state(state["generator"])
        self._permutation = state["permutation"].clone()
        self._position = int(state["position"])
