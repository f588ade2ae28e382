import pytest
import torch

from ncfast.experiments.losses import LOSSES
from ncfast.experiments.models import ACTIVATIONS, MLP, SmoothLeakyReLU, scale_parameters
from ncfast.experiments.order import BatchOrder


def test_mlp_has_the_papers_layers():
    model = MLP(784, (200, 200, 200), 10)
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert shapes == [(200, 784), (200,), (200, 200), (200,), (200, 200), (200,), (10, 200), (10,)]
    assert model(torch.randn(3, 1, 28, 28)).shape == (3, 10)
    assert model.features(torch.randn(3, 784)).min() >= 0


def test_last_two_layers_can_be_linear():
    model = MLP(6, (5, 4), 3, last_activation=False)
    x = torch.randn(7, 6)
    assert model.features(x).min() < 0
    names = [type(layer).__name__ for layer in model.features]
    assert names == ["Flatten", "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    assert MLP(6, (5,), 3, activation=name)(torch.randn(2, 6)).shape == (2, 3)


def test_smooth_leaky_relu_is_smooth_and_has_the_slopes():
    x = torch.tensor([-50.0, 0.0, 50.0], dtype=torch.float64, requires_grad=True)
    SmoothLeakyReLU(0.1)(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.1, 0.55, 1.0], dtype=torch.float64))


def test_scale_parameters():
    model = MLP(4, (3,), 2)
    before = [p.detach().clone() for p in model.parameters()]
    scale_parameters(model, 8.0)
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.equal(8 * old, new)


def test_losses_are_sums():
    outputs = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    labels = torch.tensor([0, 1])
    assert LOSSES["mse"](outputs, labels).item() == 0 + 4 + 0 + 1
    log2 = 0.6931472
    expected = torch.log1p(torch.tensor(1.0).exp()).item() + log2
    assert LOSSES["ce"](outputs, labels).item() == pytest.approx(expected, rel=1e-6)


def test_order_is_a_permutation_each_epoch_and_resumes():
    order = BatchOrder(10, 4, seed=1)
    first = torch.cat([order.next() for _ in range(3)])
    assert sorted(first.tolist()) == list(range(10))
    order.next()
    state = {name: value.clone() for name, value in order.state_dict().items()}
    expected = [order.next().tolist() for _ in range(7)]
    again = BatchOrder(10, 4, seed=99)
    again.load_state_dict(state)
    assert [again.next().tolist() for _ in range(7)] == expected
