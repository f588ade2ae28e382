"""Tests the stacked optimisers against torch.optim, one replica at a time."""

import pytest
import torch

from ncfast.experiments.training.optimizers import StackedAdamW, StackedSGD, adamw_update

RATES, DECAYS = [1e-3, 2e-2, 5e-4], [0.0, 0.3, 2.0]


def tensors():
    torch.manual_seed(0)
    shapes = [(5, 7), (11,), (3, 2, 3)]
    return [torch.randn(3, *shape) for shape in shapes]


def compare(stacked, parameters, gradients, make, steps=50):
    """Compare the stacked optimiser with one torch optimiser per replica, on the same gradients."""
    alone = [[p[r].clone().requires_grad_() for p in parameters] for r in range(3)]
    optimisers = [make(alone[r], lr=RATES[r], weight_decay=DECAYS[r]) for r in range(3)]
    torch.manual_seed(1)
    for _ in range(steps):
        for gradient in gradients:
            gradient.copy_(torch.randn_like(gradient))
        for r, optimiser in enumerate(optimisers):
            for p, g in zip(alone[r], gradients, strict=True):
                p.grad = g[r].clone()
            optimiser.step()
        stacked()
    for r in range(3):
        for one, many in zip(alone[r], parameters, strict=True):
            torch.testing.assert_close(many[r], one.detach(), rtol=1e-5, atol=1e-6)
    return optimisers


def test_adamw_equals_torch_with_its_state():
    parameters = tensors()
    gradients = [torch.zeros_like(p) for p in parameters]
    stacked = StackedAdamW(parameters, gradients, RATES, DECAYS)
    optimisers = compare(stacked.step, parameters, gradients, torch.optim.AdamW)
    for r, optimiser in enumerate(optimisers):
        state = stacked.state(r)
        for index, values in optimiser.state_dict()["state"].items():
            for name, value in values.items():
                torch.testing.assert_close(state[f"{index}/{name}"], value, rtol=1e-5, atol=1e-7)


def test_plain_adamw_equals_torch():
    """The form that runs if there is no fused kernel for a row."""
    parameters = tensors()
    gradients, first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(3))
    count = torch.zeros((), dtype=torch.float64)
    lr, decay = (torch.tensor(v, dtype=torch.float64) for v in (RATES, DECAYS))

    def step():
        count.add_(1)
        for row in zip(parameters, gradients, first, second, strict=True):
            adamw_update(*row, count, lr, decay)

    compare(step, parameters, gradients, torch.optim.AdamW)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_equals_torch(momentum):
    parameters = tensors()
    gradients = [torch.zeros_like(p) for p in parameters]
    stacked = StackedSGD(parameters, gradients, RATES, DECAYS, momentum)

    def make(*args, **options):
        return torch.optim.SGD(*args, momentum=momentum, **options)

    compare(stacked.step, parameters, gradients, make)
