"""Training in plain PyTorch with autograd and torch.optim, one network at a time."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import ImageSet
from ncfast.experiments.models import build_model
from ncfast.experiments.training.batches import BatchOrder
from ncfast.experiments.training.engine import LOSSES


def make_optimizer(
    config: TrainConfig, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """AdamW with decoupled weight decay, or gradient descent with L2 (decay times parameter).

    "sgd" and "gd" are the same update; "gd" is fed all training samples in every step.
    """
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
    return torch.optim.SGD(
        parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )


class Trainer:
    """Network, optimiser and data of one run; `step` makes one update.

    Args:
        config: the settings.
        train: training split, on the device.
        device: where to train.
    """

    def __init__(self, config: TrainConfig, train: ImageSet, device: torch.device) -> None:
        self.model = build_model(config, train).to(device)
        self.optimizer = make_optimizer(config, self.model.parameters())
        self.order = BatchOrder(len(train), config.effective_batch_size(len(train)), config.seed)
        self.loss = LOSSES[config.loss]
        self._train = train
        self._device = device

    def step(self) -> None:
        """One update on the next batch."""
        index = self.order.next().to(self._device, non_blocking=True)
        inputs, labels = self._train.batch(index)
        self.optimizer.zero_grad()
        self.loss(self.model(inputs), labels).backward()
        self.optimizer.step()
