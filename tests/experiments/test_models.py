"""Tests the models: their interface to the trainer, layers, activations and initialisation."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from ncfast.experiments.config import Model, TrainConfig
from ncfast.experiments.data import load_digits
from ncfast.experiments.models import (
    ACTIVATIONS,
    CNN,
    MLP,
    MODELS,
    Network,
    ResNet18,
    SmoothLeakyReLU,
    Transformer,
    build_model,
    draw_parameters,
    scale_parameters,
    zero_last_layer,
)
from ncfast.experiments.training.batches import BatchOrder
from ncfast.experiments.training.engine import LOSSES


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scale_layers", ["all", "linear", "last"])
def test_every_model_offers_what_the_trainer_uses(name, scale_layers):
    data = load_digits()[0]
    config = TrainConfig(out=Path("unused"), model=name, scale_layers=scale_layers, zero_last=True)
    model = build_model(config, data)
    assert isinstance(model, Network)
    assert isinstance(model.classifier, nn.Linear)
    assert model.linear_layers[-1] == "classifier"
    for layer in model.linear_layers:
        assert isinstance(model.get_submodule(layer), nn.Module)
    inputs = data.batch(slice(0, 3))[0]
    features = model.eval().features(inputs)
    assert features.shape == (3, model.classifier.in_features)
    assert torch.equal(model(inputs), model.classifier(features))
    assert not model(inputs).any(), "zero_last starts with outputs of zero"
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    again = torch.func.functional_call(model, state, (inputs,))
    assert torch.equal(again, model(inputs))


def test_the_option_names_every_model():
    assert set(get_args(Model)) == set(MODELS)


def test_mlp_has_the_papers_layers():
    model = MLP(784, (200, 200, 200), 10)
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert shapes == [(200, 784), (200,), (200, 200), (200,), (200, 200), (200,), (10, 200), (10,)]
    assert model(torch.randn(3, 1, 28, 28)).shape == (3, 10)
    assert model.features(torch.randn(3, 784)).min() >= 0


def test_last_two_layers_can_be_linear():
    torch.manual_seed(0)  # now and then no feature of a random network is negative
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


def parameters_of(model):
    return sum(p.numel() for p in model.parameters())


def test_cnn_is_the_papers():
    model = CNN((1, 28, 28), 10)
    shapes = [tuple(p.shape) for p in model.parameters() if p.ndim > 1]
    assert shapes == [(16, 1, 3, 3), (32, 16, 3, 3), (128, 32 * 12 * 12), (10, 128)]
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert model.features(torch.randn(2, 1, 28, 28)).min() >= 0
    with pytest.raises(ValueError, match=r"at least 6 x 6 .* but got inputs of shape \(32,\)"):
        CNN((32,), 10)


def test_resnet18_has_the_stem_for_small_images():
    model = ResNet18((3, 32, 32), 10).eval()
    assert parameters_of(model) == 11_173_962, "the published count of this variant"
    assert model.features.stage1(torch.zeros(1, 64, 32, 32)).shape == (1, 64, 32, 32)
    assert model.features(torch.zeros(1, 3, 32, 32)).shape == (1, 512)
    with pytest.raises(ValueError, match="Expected images for the model 'resnet18'"):
        ResNet18((5,), 10)


def test_transformer_cuts_images_into_patches():
    model = Transformer((1, 28, 28), 10)
    assert model.features.embedding.count == 49
    image = torch.arange(28.0 * 28).view(1, 1, 28, 28)
    model.features.embedding.projection = torch.nn.Identity()
    patches, mask = model.features.embedding(image)
    assert mask is None
    assert torch.equal(patches[0, 1].view(4, 4), image[0, 0, :4, 4:8])
    with pytest.raises(ValueError, match=r"patches of 5 x 5 divide.*Choose `patch_size`"):
        Transformer((1, 28, 28), 10, patch=5)


def test_attention_is_that_of_torch():
    torch.manual_seed(0)
    own = Transformer((1, 8, 8), 3, width=16, heads=4, hidden=8).features.attention
    other = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    other.in_proj_weight.data = own.projection_in.weight.data
    other.in_proj_bias.data = own.projection_in.bias.data
    other.out_proj.weight.data = own.projection_out.weight.data
    other.out_proj.bias.data = own.projection_out.bias.data
    x, mask = torch.randn(5, 7, 16), torch.rand(5, 7) > 0.3
    mask[:, 0] = True
    expected, _ = other(x, x, x, key_padding_mask=~mask)
    torch.testing.assert_close(own(x, mask), expected, rtol=1e-4, atol=1e-5)


def test_padding_does_not_change_a_text():
    torch.manual_seed(0)
    model = Transformer((9,), 4, vocabulary=20, width=16, heads=2, hidden=8)
    tokens = torch.tensor([[3, 7, 5, 0, 0, 0, 0, 0, 0]])
    expected = model(tokens)
    model.features.embedding.table.weight.data[0] = 100.0
    torch.testing.assert_close(model(tokens), expected)
    assert not torch.equal(model(torch.tensor([[3, 7, 6, 0, 0, 0, 0, 0, 0]])), expected)


@pytest.mark.parametrize(
    ("which", "scaled"),
    [
        ("all", None),
        ("linear", ("features.feed_forward.", "classifier.")),
        ("last", ("classifier.",)),
    ],
)
def test_what_the_init_scale_multiplies(which, scaled):
    model = Transformer((1, 8, 8), 3, width=16, heads=2, hidden=8)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    scale_parameters(model, 4.0, which)
    for name, parameter in model.named_parameters():
        factor = 4.0 if scaled is None or name.startswith(scaled) else 1.0
        assert torch.equal(parameter, factor * before[name]), name
    with pytest.raises(ValueError, match="`scale_layers` to be one of"):
        scale_parameters(model, 4.0, "first")


def test_zero_last_layer():
    model = CNN((1, 8, 8), 10)
    zero_last_layer(model)
    assert not model(torch.randn(2, 1, 8, 8)).any()
    assert model.features(torch.randn(2, 1, 8, 8)).any()


def test_initialisations_draw_the_linear_layers_anew():
    model = Transformer((1, 8, 8), 3, width=64, heads=2, hidden=256)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    draw_parameters(model, "default")
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    draw_parameters(model, "lecun")
    for name, p in model.named_parameters():
        drawn = name.startswith(("features.feed_forward.", "classifier."))
        assert torch.equal(p, before[name]) is not drawn, name
        assert not (drawn and p.ndim == 1 and p.any()), name
    wide = next(m for m in model.features.feed_forward.modules() if isinstance(m, nn.Linear))
    assert wide.weight.var().item() == pytest.approx(1 / wide.in_features, rel=0.05)
    assert wide.weight.abs().max().item() > 3 / wide.in_features**0.5, "normal, not uniform"
    draw_parameters(model, "orthogonal")
    w = model.classifier.weight
    torch.testing.assert_close(w @ w.T, torch.eye(3), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="`init` to be one of"):
        draw_parameters(model, "lecun_normal")


@pytest.mark.parametrize("init", ["lecun", "orthogonal"])
@pytest.mark.parametrize("name", MODELS)
def test_an_initialisation_depends_on_the_seed_alone(name, init):
    data = load_digits()[0]
    first, again, other = (
        build_model(TrainConfig(out=Path("unused"), model=name, init=init, seed=seed), data)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    plain = build_model(TrainConfig(out=Path("unused"), model=name, seed=1), data)
    assert not torch.equal(first.classifier.weight, plain.classifier.weight)
