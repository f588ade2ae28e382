"""Optimizers of stacked parameters; each replica has its own learning rate and weight decay."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ncfast.experiments.config import TrainConfig, parse_decay_layers

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
    configs: Sequence[TrainConfig],
    names: Sequence[str],
    parameters: list[Tensor],
    gradients: list[Tensor],
) -> StackedOptimizer:
    """The optimizer that ``configs`` name; each config belongs to one row of ``parameters``.

    ``names`` are those of the parameters in the network.

    Raises:
        ValueError: a configuration lists a factor of weight decay for another number of layers.
    """
    rates = [config.lr for config in configs]
    factors = decay_factors(configs[0].weight_decay_layers, names)
    decays = [[config.weight_decay * factor for factor in factors] for config in configs]
    if configs[0].optimizer == "adamw":
        return StackedAdamW(parameters, gradients, rates, decays, configs[0].adam_eps)
    return StackedSGD(parameters, gradients, rates, decays, configs[0].momentum)


def decay_factors(text: str, names: Sequence[str]) -> list[float]:
    """The factor on the weight decay of each parameter; see `Recipe.weight_decay_layers`.

    A layer is a module that owns parameters: those whose names differ in the last part alone.

    Raises:
        ValueError: ``text`` lists another number of layers than the network has.
    """
    owners = [name.rpartition(".")[0] for name in names]
    layers = list(dict.fromkeys(owners))
    listed = parse_decay_layers(text)
    if listed is None:
        wanted = {"all": (True, True), "classifier": (True, False), "hidden": (False, True)}[text]
        return [float(wanted[0] if owner == "classifier" else wanted[1]) for owner in owners]
    if len(listed) != len(layers):
        raise ValueError(
            f"Expected `weight_decay_layers` to hold a factor for each of the {len(layers)} layers "
            f"({', '.join(layers)}) but got {len(listed)}."
        )
    return [dict(zip(layers, listed, strict=True))[owner] for owner in owners]


Decays = Sequence[float] | Sequence[Sequence[float]]


def _by_parameter(decays: Decays, number: int) -> list[list[float]]:
    """The weight decay of each replica and parameter."""
    return [[d] * number if isinstance(d, int | float) else list(d) for d in decays]


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
        weight_decay: decoupled weight decay of each replica, or of each of its parameters.
        eps: is added to the root of the second moment.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        lr: Sequence[float],
        weight_decay: Decays,
        eps: float = EPS,
    ) -> None:
        self._parameters, self._gradients = parameters, gradients
        self._first = [torch.zeros_like(p) for p in parameters]
        self._second = [torch.zeros_like(p) for p in parameters]
        self._lr, self._eps = list(lr), eps
        decays = _by_parameter(weight_decay, len(parameters))
        self._rates = _columns(self._lr, parameters[0])
        self._decays = [_columns(column, parameters[0]) for column in zip(*decays, strict=True)]
        # the parameters of a replica that share a weight decay are updated by one call
        self._groups = [
            {decay: [i for i, d in enumerate(row) if d == decay] for decay in row} for row in decays
        ]
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
        for p, g, m, v, decays in zip(
            self._parameters, self._gradients, self._first, self._second, self._decays, strict=True
        ):
            adamw_update(p, g, m, v, self._count, self._rates, decays, self._eps)

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
        rows = zip(*self._rows, self._gradient_rows(), self._lr, self._groups, strict=True)
        for parameters, first, second, gradients, lr, groups in rows:
            for decay, members in groups.items():
                torch._fused_adamw_(
                    [parameters[i] for i in members],
                    [gradients[i] for i in members],
                    [first[i] for i in members],
                    [second[i] for i in members],
                    [],
                    [self._counts[i] for i in members],
                    amsgrad=False,
                    lr=lr,
                    beta1=BETA1,
                    beta2=BETA2,
                    weight_decay=decay,
                    eps=self._eps,
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
    eps: float = EPS,
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
        eps: is added to the root of the second moment.
    """
    parameter.mul_(_fit(1 - lr * weight_decay, parameter))
    first.lerp_(gradient, 1 - BETA1)
    second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    rate = _fit(lr / (1 - BETA1**count), parameter)
    root = (1 - BETA2**count).sqrt().to(parameter.dtype)
    parameter.sub_(rate * first / (second.sqrt() / root + eps))


class StackedSGD:
    """Gradient descent with momentum and L2; equals `torch.optim.SGD` up to float32 rounding.

    Args:
        parameters: (R, ...) each.
        gradients: (R, ...) each.
        lr: learning rate of each replica.
        weight_decay: L2 factor of each replica, or of each of its parameters; the parameter times
            it is added to the gradient.
        momentum: momentum of all replicas.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        lr: Sequence[float],
        weight_decay: Decays,
        momentum: float = 0.0,
    ) -> None:
        self._parameters, self._gradients, self._momentum = parameters, gradients, momentum
        rates = _columns(lr, parameters[0])
        decays = zip(*_by_parameter(weight_decay, len(parameters)), strict=True)
        self._lr = [_fit(rates, p) for p in parameters]
        self._decay = [
            _fit(_columns(column, p), p) for column, p in zip(decays, parameters, strict=True)
        ]
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
