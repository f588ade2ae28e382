"""Trains replicas of a multilayer perceptron with batched matrix products.

The backward pass is written by hand. On a CPU it is 25 to 50 % faster than autograd over the same
products: it builds no graph, computes no gradient of the inputs, and writes the gradients where the
optimizer reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ncfast.experiments.models import MLP, SmoothLeakyReLU
from ncfast.experiments.training.engine import Pull, stack_parameters


class Activation(NamedTuple):
    """An elementwise function and its backward pass.

    ``backward`` takes the gradient of the output, the input z and the output.
    """

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor], Tensor]


def _smooth_leaky(module: SmoothLeakyReLU) -> Activation:
    slope = module.negative_slope
    return Activation(
        module, lambda gradient, z, _: gradient * torch.sigmoid(z).mul_(1 - slope).add_(slope)
    )


def activation_of(module: nn.Module) -> Activation:
    """The activation of a module of `ncfast.experiments.models.ACTIVATIONS`.

    Raises:
        TypeError: the module is not one of them.
    """
    aten = torch.ops.aten
    if isinstance(module, SmoothLeakyReLU):
        return _smooth_leaky(module)
    if isinstance(module, nn.ReLU):
        return Activation(torch.relu_, lambda g, _, h: aten.threshold_backward(g, h, 0))
    if isinstance(module, nn.Tanh):
        return Activation(torch.tanh, lambda g, _, h: aten.tanh_backward(g, h))
    if isinstance(module, nn.GELU):
        return Activation(nn.functional.gelu, lambda g, z, _: aten.gelu_backward(g, z))
    raise TypeError(f"Expected an activation of the MLP but got {type(module).__name__}.")


def output_gradient(logits: Tensor, labels: Tensor, loss: str) -> Tensor:
    """Gradient of the summed loss with respect to the logits.

    Args:
        logits: (R, B, K); may be overwritten.
        labels: (R, B) int64.
        loss: "mse" for sum (output - one-hot)^2, "ce" for summed cross-entropy.
    """
    scores = logits if loss == "mse" else logits.softmax(-1)
    residual = scores.scatter_add_(
        2, labels.unsqueeze(2), scores.new_full((), -1.0).expand_as(labels.unsqueeze(2))
    )
    return residual.mul_(2) if loss == "mse" else residual


class MLPEngine:
    """R perceptrons of equal layer sizes; see `ncfast.experiments.training.engine.Engine`.

    Args:
        models: the initialised networks; their values are copied.
        loss: "mse" or "ce".
    """

    def __init__(self, models: Sequence[MLP], loss: str) -> None:
        self.names, self.parameters = stack_parameters(models)
        self.gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.pulled: list[Tensor] = []
        self._weights, self._biases = self.parameters[0::2], self.parameters[1::2]
        self._loss = loss
        layers = list(models[0].features)[1:]  # after Flatten
        follow = [*layers[1:], None]
        self._activations = [
            None if after is None or isinstance(after, nn.Linear) else activation_of(after)
            for layer, after in zip(layers, follow, strict=True)
            if isinstance(layer, nn.Linear)
        ]

    @torch.no_grad()
    def backward(self, inputs: Tensor, labels: Tensor, pull: Pull | None = None) -> None:
        """See `Engine.backward`."""
        trace = self._forward(inputs.flatten(2))
        last, before = self._weights[-1], trace[-1][1]
        logits = torch.baddbmm(self._biases[-1].unsqueeze(1), before, last.transpose(1, 2))
        gradient = output_gradient(logits, labels, self._loss)
        self._propagate(gradient, trace, len(self._weights) - 1, self.gradients)
        if pull is not None:
            self.pulled = self.pulled or [torch.zeros_like(g) for g in self.gradients]
            gradient = pull(trace[-1][1], labels)
            if self._activations[-1] is not None:
                gradient = self._activations[-1].backward(gradient, *trace[-1])
            self._propagate(gradient, trace, len(self._weights) - 2, self.pulled)

    def _propagate(
        self, gradient: Tensor, trace: list[tuple[Tensor, Tensor]], top: int, out: list[Tensor]
    ) -> None:
        """Send the gradient of the output of layer ``top`` through it and those below."""
        for layer in reversed(range(top + 1)):
            torch.sum(gradient, 1, out=out[2 * layer + 1])
            torch.bmm(gradient.transpose(1, 2), trace[layer][1], out=out[2 * layer])
            if layer > 0:
                gradient = torch.bmm(gradient, self._weights[layer])
                activation = self._activations[layer - 1]
                if activation is not None:
                    gradient = activation.backward(gradient, *trace[layer])

    def _forward(self, hidden: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Pairs (z, activation of z): one for the input, then one for each hidden layer."""
        trace = [(hidden, hidden)]
        for weight, bias, activation in zip(
            self._weights, self._biases, self._activations, strict=False
        ):
            z = torch.baddbmm(bias.unsqueeze(1), hidden, weight.transpose(1, 2))
            hidden = z if activation is None else activation.forward(z)
            trace.append((z, hidden))
        return trace

    @torch.no_grad()
    def evaluate(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """See `Engine.evaluate`."""
        flat = inputs.flatten(1)
        features = self._forward(flat.expand(len(self._weights[0]), *flat.shape))[-1][1]
        logits = torch.baddbmm(
            self._biases[-1].unsqueeze(1), features, self._weights[-1].transpose(1, 2)
        )
        return features, logits

    def buffers(self) -> dict[str, Tensor]:
        """A perceptron has no buffers."""
        return {}
