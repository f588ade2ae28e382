"""Optimizers of stacked parameters; each replica has its own learning rate and weight decay."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ncfast.experiments.config import TrainConfig

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # torch's defaults


class StackedOptimizer(Protocol):
    """Updates (R, ...) parameters in place."""

    def step(self) -> None:
        """Make one update from the current gradients."""

    def state(self, replica: int) -> dict[str, Tensor]:
        """Views of the tensors that torch.optim would hold, by "{parameter index}/{name}"."""

    def load(self, replica: int, state: dict[str, Tensor]) -> None:
        """Restore a state that `state` returned."""


def make_stacked_optimizer(
    configs: Sequence[TrainConfig], parameters: list[Tensor], gradients: list[Tensor]
) -> StackedOptimizer:
    """The optimizer that ``configs`` name; each config belongs to one row of ``parameters``."""
    rates = [config.lr for config in configs]
    decays = [config.weight_decay for config in configs]
    if configs[0].optimizer == "adamw":
        return StackedAdamW(parameters, gradients, rates, decays)
    return StackedSGD(parameters, gradients, rates, decays, configs[0].momentum)


def _columns(values: Sequence[float], like: Tensor) -> Tensor:
    """(R,) float64 values; products of float32 values would be rounded twice."""
    return torch.tensor(values, dtype=torch.float64, device=like.device)


def _fit(values: Tensor, like: Tensor) -> Tensor:
    """(R,) values as (R, 1, ...), in the dtype of ``like``."""
    return values.to(like.dtype).view(-1, *([1] * (like.ndim - 1)))


class StackedAdamW:
    """AdamW (Loshchilov & Hutter 2019); equals `torch.optim.AdamW` up to float32 rounding.

    On a CPU each replica has its own call of torch's fused kernel, so its result does not depend on
    the other replicas. Other devices use `adamw_update`, whose step count is on the device to allow
    graph capture.

    Args:
        parameters: (R, ...) each.
        gradients: (R, ...) each.
        lr: learning rate of each replica.
        weight_decay: decoupled weight decay of each replica.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        lr: Sequence[float],
        weight_decay: Sequence[float],
    ) -> None:
        self._parameters, self._gradients = parameters, gradients
        self._first = [torch.zeros_like(p) for p in parameters]
        self._second = [torch.zeros_like(p) for p in parameters]
        self._lr, self._decay = list(lr), list(weight_decay)
        self._rates = _columns(self._lr, parameters[0])
        self._decays = _columns(self._decay, parameters[0])
        self._count = torch.zeros((), dtype=torch.float64, device=parameters[0].device)
        self._fused = parameters[0].device.type == "cpu"
        self._rows = [self._by_replica(group) for group in (parameters, self._first, self._second)]
        self._seen: list[Tensor] = []
        self._counts = [torch.zeros(()) for _ in parameters]

    @torch.no_grad()
    def step(self) -> None:
        """See `StackedOptimizer.step`."""
        self._count += 1
        if self._fused:
            self._step_fused()
            return
        for p, g, m, v in zip(
            self._parameters, self._gradients, self._first, self._second, strict=True
        ):
            adamw_update(p, g, m, v, self._count, self._rates, self._decays)

    def _by_replica(self, stacked: list[Tensor]) -> list[list[Tensor]]:
        return [[tensor[r] for tensor in stacked] for r in range(len(self._lr))]

    def _gradient_rows(self) -> list[list[Tensor]]:
        """Views of the gradients by replica, renewed if the engine has replaced a gradient."""
        if len(self._seen) == 0 or any(map(operator.is_not, self._seen, self._gradients)):
            self._seen = list(self._gradients)
            self._gradient_views = self._by_replica(self._seen)
        return self._gradient_views

    def _step_fused(self) -> None:
        torch._foreach_add_(self._counts, 1)
        rows = zip(*self._rows, self._gradient_rows(), self._lr, self._decay, strict=True)
        for parameters, first, second, gradients, lr, decay in rows:
            torch._fused_adamw_(
                parameters,
                gradients,
                first,
                second,
                [],
                self._counts,
                amsgrad=False,
                lr=lr,
                beta1=BETA1,
                beta2=BETA2,
                weight_decay=decay,
                eps=EPS,
                maximize=False,
            )

    def state(self, replica: int) -> dict[str, Tensor]:
        """See `StackedOptimizer.state`."""
        found: dict[str, Tensor] = {}
        for index, (first, second) in enumerate(zip(self._first, self._second, strict=True)):
            found[f"{index}/step"] = self._count.to(torch.float32)
            found[f"{index}/exp_avg"] = first[replica]
            found[f"{index}/exp_avg_sq"] = second[replica]
        return found

    def load(self, replica: int, state: dict[str, Tensor]) -> None:
        """See `StackedOptimizer.load`; all replicas must be at the same step."""
        for index, (first, second) in enumerate(zip(self._first, self._second, strict=True)):
            first[replica].copy_(state[f"{index}/exp_avg"])
            second[replica].copy_(state[f"{index}/exp_avg_sq"])
        self._count.copy_(state["0/step"])
        for count in self._counts:
            count.copy_(state["0/step"])


def adamw_update(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    count: Tensor,
    lr: Tensor,
    weight_decay: Tensor,
) -> None:
    """One AdamW update of (R, ...) tensors in place, from elementary torch operations.

    Args:
        parameter: (R, ...), updated in place.
        gradient: (R, ...).
        first: moving average of the gradient, updated in place.
        second: moving average of the squared gradient, updated in place.
        count: () number of this update, 1 for the first.
        lr: (R,) float64.
        weight_decay: (R,) float64.
    """
    parameter.mul_(_fit(1 - lr * weight_decay, parameter))
    first.lerp_(gradient, 1 - BETA1)
    second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    rate = _fit(lr / (1 - BETA1**count), parameter)
    root = (1 - BETA2**count).sqrt().to(parameter.dtype)
    parameter.sub_(rate * first / (second.sqrt() / root + EPS))


class StackedSGD:
    """Gradient descent with momentum and L2; equals `torch.optim.SGD` up to float32 rounding.

    Args:
        parameters: (R, ...) each.
        gradients: (R, ...) each.
        lr: learning rate of each replica.
        weight_decay: L2 factor of each replica; the parameter times it is added to the gradient.
        momentum: momentum of all replicas.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        lr: Sequence[float],
        weight_decay: Sequence[float],
        momentum: float = 0.0,
    ) -> None:
        self._parameters, self._gradients, self._momentum = parameters, gradients, momentum
        rates, decays = _columns(lr, parameters[0]), _columns(weight_decay, parameters[0])
        self._lr = [_fit(rates, p) for p in parameters]
        self._decay = [_fit(decays, p) for p in parameters]
        # starting from zero matches torch, whose first buffer is the gradient
        self._buffers = [torch.zeros_like(p) for p in parameters] if momentum else []

    @torch.no_grad()
    def step(self) -> None:
        """See `StackedOptimizer.step`."""
        for index, (p, g) in enumerate(zip(self._parameters, self._gradients, strict=True)):
            change = torch.addcmul(g, p, self._decay[index])
            if self._momentum:
                change = self._buffers[index].mul_(self._momentum).add_(change)
            p.addcmul_(change, self._lr[index], value=-1)

    def state(self, replica: int) -> dict[str, Tensor]:
        """See `StackedOptimizer.state`."""
        return {f"{i}/momentum_buffer": b[replica] for i, b in enumerate(self._buffers)}

    def load(self, replica: int, state: dict[str, Tensor]) -> None:
        """See `StackedOptimizer.load`."""
        for index, buffer in enumerate(self._buffers):
            buffer[replica].copy_(state[f"{index}/momentum_buffer"])
