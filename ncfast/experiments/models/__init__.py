"""The networks of the experiments; each has ``features`` and a linear ``classifier``."""

from ncfast.experiments.models.build import MODELS, build_model, build_network
from ncfast.experiments.models.cnn import CNN
from ncfast.experiments.models.initial import draw_parameters, scale_parameters, zero_last_layer
from ncfast.experiments.models.mlp import ACTIVATIONS, MLP, SmoothLeakyReLU
from ncfast.experiments.models.protocol import Network
from ncfast.experiments.models.resnet import ResNet18
from ncfast.experiments.models.transformer import Transformer

__all__ = [
    "ACTIVATIONS",
    "CNN",
    "MLP",
    "MODELS",
    "Network",
    "ResNet18",
    "SmoothLeakyReLU",
    "Transformer",
    "build_model",
    "build_network",
    "draw_parameters",
    "scale_parameters",
    "zero_last_layer",
]
