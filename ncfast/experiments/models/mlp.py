"""The multilayer perceptron and its activation functions."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from ncfast.experiments.models.protocol import Network


class SmoothLeakyReLU(nn.Module):
    """a x + (1 - a) softplus(x): a leaky ReLU that is smooth, as the theory requires.

    Args:
        negative_slope: a, the slope for x towards minus infinity.
    """

    def __init__(self, negative_slope: float = 0.1) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function to each element."""
        return self.negative_slope * x + (1 - self.negative_slope) * functional.softplus(x)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "smooth-leaky-relu": SmoothLeakyReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


class MLP(Network):
    """A multilayer perceptron. Its features are the input of ``classifier``.

    Args:
        input_size: number of values in one flattened input.
        widths: sizes of the hidden layers.
        num_classes: K.
        activation: one of `ACTIVATIONS`; it follows each hidden layer.
        last_activation: whether it follows the last hidden layer too. False makes the last two
            layers linear, as in the theory.

    Example:
        >>> import torch
        >>> MLP(64, (200, 200), 10)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    features: nn.Sequential

    def __init__(
        self,
        input_size: int,
        widths: Sequence[int],
        num_classes: int,
        *,
        activation: str = "relu",
        last_activation: bool = True,
    ) -> None:
        super().__init__()
        self.linear_layers = ("features", "classifier")
        sizes = [input_size, *widths]
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for index, (before, after) in enumerate(itertools.pairwise(sizes), start=1):
            layers[f"linear{index}"] = nn.Linear(before, after)
            if index < len(widths) or last_activation:
                layers[f"activation{index}"] = ACTIVATIONS[activation]()
        self.features = nn.Sequential(layers)
        self.classifier = nn.Linear(sizes[-1], num_classes)
