import math

import pytest
import torch
from torch import nn

import ncfast


def test_is_the_global_l2_norm_not_the_sum_of_norms():
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2))
    by_hand = math.sqrt(sum(float((p.detach().double() ** 2).sum()) for p in model.parameters()))
    assert float(ncfast.weight_norm(model)) == pytest.approx(by_hand, rel=1e-12)
    assert float(ncfast.weight_norm(model.parameters())) == pytest.approx(by_hand, rel=1e-12)


def test_half_precision_does_not_overflow():
    weights = torch.full((1000, 1000), 200.0, dtype=torch.float16)
    assert float(ncfast.weight_norm([weights])) == pytest.approx(2e5, rel=1e-12)


def test_no_parameter():
    with pytest.raises(ValueError, match="at least one parameter"):
        ncfast.weight_norm(nn.ReLU())


def test_balancedness():
    generator = torch.Generator().manual_seed(0)
    last, previous = torch.randn(3, 7, generator=generator), torch.randn(7, 20, generator=generator)
    a, b = last.double().T @ last.double(), previous.double() @ previous.double().T
    absolute = float((a - b).norm())
    assert float(ncfast.balancedness(last, previous, relative=False)) == pytest.approx(absolute)
    relative = absolute / float(a.norm() + b.norm())
    assert float(ncfast.balancedness(last, previous)) == pytest.approx(relative, rel=1e-12)
    assert float(ncfast.balancedness(10 * last, 10 * previous)) == pytest.approx(relative)


def test_balancedness_decays_as_the_theory_says():
    """Gradient descent with weight decay on two linear layers: (1 - eta lambda)^(2 t)."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    last = torch.randn(3, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    x = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    step, decay, steps = 1e-4, 2.0, 2000
    start = ncfast.balancedness(last.detach(), first.detach(), relative=False)
    for _ in range(steps):
        loss = (x @ first.T @ last.T - y).square().sum() / 100
        gradients = torch.autograd.grad(loss, (first, last))
        with torch.no_grad():
            for parameter, gradient in zip((first, last), gradients, strict=True):
                parameter -= step * (gradient + decay * parameter)
    found = ncfast.balancedness(last.detach(), first.detach(), relative=False) / start
    assert float(found) == pytest.approx((1 - step * decay) ** (2 * steps), rel=0.01)


def test_balancedness_of_layers_that_do_not_chain():
    with pytest.raises(ValueError, match=r"\(3, 7\) and \(6, 4\).*the later one first"):
        ncfast.balancedness(torch.ones(3, 7), torch.ones(6, 4))


def test_spectral_norm_product():
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Conv2d(3, 2, 3))
    matrices = [model[0].weight.detach(), model[2].weight.detach().flatten(1)]
    by_hand = math.prod(float(torch.linalg.matrix_norm(w.double(), 2)) for w in matrices)
    assert float(ncfast.spectral_norm_product(model)) == pytest.approx(by_hand, rel=1e-9)
    with pytest.raises(ValueError, match="at least one weight matrix"):
        ncfast.spectral_norm_product(nn.ReLU())
