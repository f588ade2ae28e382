"""Trains replicas of any network one after the other: the fallback and the reference engine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ncfast.experiments.models import Network
from ncfast.experiments.training.engine import LOSSES, Pull, stack_parameters


class LoopedEngine:
    """R networks whose parameters are views of the stacked parameters; see `Engine`.

    Args:
        models: the initialised networks. The engine replaces their parameters by views.
        loss: "mse" or "ce".
    """

    def __init__(self, models: Sequence[Network], loss: str) -> None:
        self._models = list(models)
        self._loss = LOSSES[loss]
        self.names, self.parameters = stack_parameters(models)
        self.gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.pulled: list[Tensor] = []
        for row, model in enumerate(self._models):
            stacked = zip(model.parameters(), self.parameters, self.gradients, strict=True)
            for parameter, values, gradients in stacked:
                parameter.data, parameter.grad = values[row], gradients[row]
        self._buffers = {
            name: torch.stack([dict(m.named_buffers())[name] for m in self._models])
            for name, _ in self._models[0].named_buffers()
        }
        for row, model in enumerate(self._models):
            for name, buffer in model.named_buffers():
                buffer.data = self._buffers[name][row]

    def backward(self, inputs: Tensor, labels: Tensor, pull: Pull | None = None) -> None:
        """See `Engine.backward`."""
        if pull is not None:
            self._backward_with(pull, inputs, labels)
            return
        if len(self._models) == 1:
            self._backward_alone(inputs[0], labels[0])
            return
        torch._foreach_zero_(self.gradients)
        for model, x, y in zip(self._models, inputs, labels, strict=True):
            model.train()
            self._loss(model(x), y).backward()

    def _backward_alone(self, inputs: Tensor, labels: Tensor) -> None:
        """Use autograd's gradient tensors directly; adding them to zeros would cost a pass."""
        (model,) = self._models
        for parameter in model.parameters():
            parameter.grad = None
        model.train()
        self._loss(model(inputs), labels).backward()
        for index, parameter in enumerate(model.parameters()):
            assert parameter.grad is not None
            self.gradients[index] = parameter.grad.unsqueeze(0)

    def _backward_with(self, pull: Pull, inputs: Tensor, labels: Tensor) -> None:
        self.pulled = self.pulled or [torch.zeros_like(g) for g in self.gradients]
        graphs = []
        for row, (model, x, y) in enumerate(zip(self._models, inputs, labels, strict=True)):
            model.train()
            features = model.features(x)
            loss = self._loss(model.classifier(features), y)
            found = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            for target, value in zip(self.gradients, found, strict=True):
                target[row] = value
            graphs.append(features)
        pulls = pull(torch.stack([features.detach() for features in graphs]), labels)
        for row, model in enumerate(self._models):
            parameters = list(model.parameters())
            pushed = torch.autograd.grad(graphs[row], parameters, pulls[row], allow_unused=True)
            for target, one in zip(self.pulled, pushed, strict=True):
                target[row] = 0 if one is None else one

    @torch.no_grad()
    def evaluate(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """See `Engine.evaluate`."""
        features = []
        for model in self._models:
            model.eval()
            features.append(model.features(inputs))
        logits = [model.classifier(z) for model, z in zip(self._models, features, strict=True)]
        return torch.stack(features), torch.stack(logits)

    def buffers(self) -> dict[str, Tensor]:
        """Running statistics of BatchNorm."""
        return self._buffers
