"""The training losses, summed over the batch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional


def summed_squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """Sum over samples and classes of (output - one-hot label)^2; no factor 1/2."""
    target = functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
    return (outputs - target).square().sum()


def summed_cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Sum over samples of the cross-entropy, in nats."""
    return functional.cross_entropy(outputs, labels, reduction="sum")


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": summed_squared_error,
    "ce": summed_cross_entropy,
}
