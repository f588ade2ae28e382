"""The training losses, and the engines that compute their gradients for several replicas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ncfast.experiments.models import MLP, Network

# a gradient with respect to the features (R, B, D) of batches with labels (R, B)
Pull = Callable[[Tensor, Tensor], Tensor]


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


class Engine(Protocol):
    """Holds the parameters of R replicas, stacked along the first axis, and computes gradients.

    Attributes:
        names: names of the parameters, in the order of the network's ``named_parameters``.
        parameters: one (R, ...) tensor per name; the optimizer changes them in place.
        gradients: one (R, ...) tensor per name; `backward` fills or replaces them.
        pulled: the same for the pull of `backward`; empty before the first one.
    """

    names: list[str]
    parameters: list[Tensor]
    gradients: list[Tensor]
    pulled: list[Tensor]

    def backward(self, inputs: Tensor, labels: Tensor, pull: Pull | None = None) -> None:
        """Compute ``gradients`` of each replica's loss on its own batch.

        Args:
            inputs: (R, B, ...), one batch per replica.
            labels: (R, B) int64.
            pull: a gradient with respect to the features, which goes through the hidden layers
                into ``pulled``; the classifier's part is zero.
        """

    def evaluate(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Features (R, N, D) and logits (R, N, K) of inputs (N, ...), in eval mode."""

    def buffers(self) -> dict[str, Tensor]:
        """The network's buffers by name, (R, ...) each; they may be written to."""


def make_engine(models: Sequence[Network], loss: str, device: torch.device) -> Engine:
    """The fastest engine for these networks on this device.

    On a CPU, batching over replicas does not speed up convolutions and attention. Networks with
    them run in a loop there.

    Args:
        models: R initialised networks of one architecture.
        loss: "mse" or "ce", see `LOSSES`.
        device: where to train.
    """
    from ncfast.experiments.training.looped import LoopedEngine
    from ncfast.experiments.training.mlp import MLPEngine
    from ncfast.experiments.training.vmapped import VmapEngine

    moved = [model.to(device) for model in models]
    perceptrons = [model for model in moved if isinstance(model, MLP)]
    if len(perceptrons) == len(moved):
        return MLPEngine(perceptrons, loss)
    return VmapEngine(moved, loss) if device.type == "cuda" else LoopedEngine(moved, loss)


def stack_parameters(models: Sequence[Network]) -> tuple[list[str], list[Tensor]]:
    """Names of the parameters, and the parameters of all models stacked along the first axis."""
    names = [name for name, _ in models[0].named_parameters()]
    columns = zip(*(model.parameters() for model in models), strict=True)
    return names, [torch.stack([p.detach() for p in column]) for column in columns]
