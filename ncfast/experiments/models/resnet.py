"""ResNet18 (He et al. 2016) with a stem for small images: 3 x 3, stride 1, no pooling."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from ncfast.experiments.models.protocol import Network

WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm, and a shortcut.

    The shortcut is a 1 x 1 convolution with BatchNorm if the stride is not 1 or the number of
    channels changes. Otherwise it is the identity.

    Args:
        inside: number of input channels.
        outside: number of output channels.
        stride: stride of the first convolution.
    """

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inside, H, W) to (N, outside, H / stride, W / stride)."""
        hidden = self.norm1(self.conv1(x)).relu()
        shortcut: Tensor = self.shortcut(x)
        return (self.norm2(self.conv2(hidden)) + shortcut).relu()


class ResNet18(Network):
    """ResNet18 for images of at least 8 x 8 pixels. The features are the 512 averaged channels.

    Args:
        input_shape: (C, H, W) of an image.
        num_classes: K.

    Raises:
        ValueError: the input is not an image.

    Example:
        >>> import torch
        >>> ResNet18((3, 32, 32), 10).eval()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, input_shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ValueError(
                "Expected images for the model 'resnet18' but got inputs of shape "
                f"{tuple(input_shape)}. Choose an image dataset, or the model 'mlp'."
            )
        self.linear_layers = ("classifier",)
        stem = OrderedDict[str, nn.Module](
            conv=nn.Conv2d(input_shape[0], WIDTHS[0], 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(WIDTHS[0]),
            activation=nn.ReLU(),
        )
        before = WIDTHS[0]
        for index, width in enumerate(WIDTHS):
            stride = 1 if index == 0 else 2
            stem[f"stage{index + 1}"] = nn.Sequential(
                BasicBlock(before, width, stride), BasicBlock(width, width, 1)
            )
            before = width
        self.features = nn.Sequential(
            OrderedDict(**stem, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
        )
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
