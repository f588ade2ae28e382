"""Builds a run's network from its settings."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import ImageSet, TextSet
from ncfast.experiments.models.cnn import CNN
from ncfast.experiments.models.initial import draw_parameters, scale_parameters, zero_last_layer
from ncfast.experiments.models.mlp import MLP
from ncfast.experiments.models.protocol import Network
from ncfast.experiments.models.resnet import ResNet18
from ncfast.experiments.models.transformer import Transformer


def _mlp(config: TrainConfig, data: ImageSet) -> Network:
    if isinstance(data, TextSet):
        raise ValueError(
            f"Expected `model` to be 'transformer' for the texts of {config.dataset!r} but got "
            f"{config.model!r}. Pass --model transformer."
        )
    return MLP(
        data.input_size,
        config.widths,
        data.num_classes,
        activation=config.activation,
        last_activation=config.last_activation,
    )


def _transformer(config: TrainConfig, data: ImageSet) -> Network:
    vocabulary = len(data.vocabulary) if isinstance(data, TextSet) else None
    return Transformer(
        data.inputs.shape[1:], data.num_classes, vocabulary=vocabulary, patch=config.patch_size
    )


MODELS: dict[str, Callable[[TrainConfig, ImageSet], Network]] = {
    "mlp": _mlp,
    "cnn": lambda config, data: CNN(data.inputs.shape[1:], data.num_classes),
    "resnet18": lambda config, data: ResNet18(data.inputs.shape[1:], data.num_classes),
    "transformer": _transformer,
}


def build_network(config: TrainConfig, data: ImageSet) -> Network:
    """The network with the chosen initialisation, unscaled, which depends only on the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = MODELS[config.model](config, data)
        draw_parameters(model, config.init)
        return model


def build_model(config: TrainConfig, data: ImageSet) -> Network:
    """The network with the run's initialisation, on the CPU; its only random input is the seed.

    Args:
        config: the settings.
        data: a split of the dataset; its shapes and classes are used.

    Raises:
        ValueError: the model does not support inputs of this kind.
    """
    model = build_network(config, data)
    scale_parameters(model, config.init_scale, config.scale_layers)
    if config.zero_last:
        zero_last_layer(model)
    return model
