"""Trains replicas of any network with `torch.func.functional_call` and `torch.vmap`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state

from ncfast.experiments.models import Network
from ncfast.experiments.training.engine import LOSSES, Pull


class VmapEngine:
    """R networks as one vectorised function of the stacked parameters; see `Engine`.

    BatchNorm is supported: its running statistics are stacked too.

    Args:
        models: the initialised networks; their values are copied.
        loss: "mse" or "ce".
    """

    def __init__(self, models: Sequence[Network], loss: str) -> None:
        parameters, buffers = stack_module_state(list(models))
        self.names = list(parameters)
        self.parameters = [value.detach() for value in parameters.values()]
        self.gradients = [torch.zeros_like(value) for value in self.parameters]
        self.pulled: list[Tensor] = []
        self._buffers: dict[str, Tensor] = dict(buffers)
        self._skeleton = copy.deepcopy(models[0]).to("meta")
        self._loss = LOSSES[loss]

    def _call(self, name: str, values: dict[str, Tensor], x: Tensor) -> Any:
        module = self._skeleton.get_submodule(name) if name else self._skeleton
        prefix = f"{name}." if name else ""
        part = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
        return functional_call(module, part, (x,))

    def backward(self, inputs: Tensor, labels: Tensor, pull: Pull | None = None) -> None:
        """See `Engine.backward`."""
        self._skeleton.train()
        values = [parameter.detach().requires_grad_() for parameter in self.parameters]
        named = dict(zip(self.names, values, strict=True)) | self._buffers

        def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            features = self._call("features", values, x)
            return self._loss(self._call("classifier", values, features), y), features

        # the losses share no parameters, so the gradient of their sum holds each gradient
        losses, features = torch.vmap(loss)(named, inputs, labels)
        found = torch.autograd.grad(losses.sum(), values, retain_graph=pull is not None)
        torch._foreach_copy_(self.gradients, found)
        if pull is not None:
            gradient = pull(features.detach(), labels)
            pushed = torch.autograd.grad(features, values, gradient, allow_unused=True)
            self.pulled = [
                torch.zeros_like(v) if p is None else p for v, p in zip(values, pushed, strict=True)
            ]

    @torch.no_grad()
    def evaluate(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """See `Engine.evaluate`."""
        self._skeleton.eval()
        named = dict(zip(self.names, self.parameters, strict=True)) | self._buffers

        def both(values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            features = self._call("features", values, inputs)
            return features, self._call("classifier", values, features)

        features, logits = torch.vmap(both)(named)
        return features, logits

    def buffers(self) -> dict[str, Tensor]:
        """Running statistics of BatchNorm."""
        return self._buffers
