"""The CNN of arXiv 2509.20829, with two convolutions and one hidden linear layer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from ncfast.experiments.models.protocol import Network


class CNN(Network):
    """conv 3 x 3 (16) - conv 3 x 3 (32) - max pool 2 - linear 128 - linear K, ReLU between.

    The convolutions have no padding. The features are the input of ``classifier``.

    Args:
        input_shape: (C, H, W) of an image, H and W at least 6.
        num_classes: K.

    Raises:
        ValueError: the input is not an image or is too small.

    Example:
        >>> import torch
        >>> CNN((1, 28, 28), 10)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, input_shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        if len(input_shape) != 3 or min(input_shape[1:]) < 6:
            raise ValueError(
                "Expected images of at least 6 x 6 for the model 'cnn' but got inputs of shape "
                f"{tuple(input_shape)}. Choose an image dataset, or the model 'mlp'."
            )
        channels, height, width = input_shape
        flat = 32 * ((height - 4) // 2) * ((width - 4) // 2)
        self.linear_layers = ("features.linear", "classifier")
        self.features = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(channels, 16, 3),
                activation1=nn.ReLU(),
                conv2=nn.Conv2d(16, 32, 3),
                activation2=nn.ReLU(),
                pool=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                linear=nn.Linear(flat, 128),
                activation3=nn.ReLU(),
            )
        )
        self.classifier = nn.Linear(128, num_classes)
