"""The optimiser of a run."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ncfast.experiments.config import TrainConfig


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
