"""What trains several replicas of one network at once, whatever the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ncfast.experiments.models import MLP, Network


class Engine(Protocol):
    """Parameters of R replicas stacked along a first axis, and how to differentiate their losses.

    Attributes:
        names: of the parameters, in the order of the network's ``named_parameters``.
        parameters: one (R, ...) tensor a name; the optimiser changes them in place.
        gradients: likewise; `backward` fills them, or puts others into the list.
    """

    names: list[str]
    parameters: list[Tensor]
    gradients: list[Tensor]

    def backward(self, inputs: Tensor, labels: Tensor) -> None:
        """Fill ``gradients`` with those of each replica's loss on its own batch.

        Args:
            inputs: (R, B, ...), a batch for each replica.
            labels: (R, B) int64.
        """

    def evaluate(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Features (R, N, D) and logits (R, N, K) of the same inputs (N, ...), in eval mode."""

    def buffers(self) -> dict[str, Tensor]:
        """(R, ...) by name: what the network keeps beside its parameters; may be copied to."""


def make_engine(models: Sequence[Network], loss: str, device: torch.device) -> Engine:
    """The fastest engine for these networks on this device.

    On a CPU convolutions and attention gain nothing from an axis for replicas: they are looped.

    Args:
        models: the R freshly initialised networks of one architecture.
        loss: "mse" or "ce", as in `ncfast.experiments.training.losses`.
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
    """Names, and the parameters of all models stacked along a first axis."""
    names = [name for name, _ in models[0].named_parameters()]
    columns = zip(*(model.parameters() for model in models), strict=True)
    return names, [torch.stack([p.detach() for p in column]) for column in columns]
