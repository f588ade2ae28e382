"""Tests that all engines compute the same gradients and features."""

import copy

import pytest
import torch

from ncfast.experiments.models import CNN, MLP, MODELS, ResNet18, Transformer
from ncfast.experiments.training.engine import LOSSES
from ncfast.experiments.training.looped import LoopedEngine
from ncfast.experiments.training.mlp import MLPEngine
from ncfast.experiments.training.vmapped import VmapEngine

NETWORKS = {
    "mlp": lambda: MLP(64, (12, 7), 10, activation="tanh"),
    "cnn": lambda: CNN((1, 8, 8), 10),
    "transformer": lambda: Transformer((1, 8, 8), 10, patch=4, width=16, heads=2, hidden=8),
    "resnet18": lambda: ResNet18((1, 8, 8), 10),
}
CASES = [
    (MLPEngine, "mlp"),
    *((LoopedEngine, name) for name in NETWORKS),
    *((VmapEngine, name) for name in NETWORKS),
]


def test_every_model_is_compared():
    assert set(NETWORKS) == set(MODELS)


def made(name, number=3):
    torch.manual_seed(0)
    return [NETWORKS[name]() for _ in range(number)]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("engine", "name"), CASES)
def test_gradients_are_those_of_each_network_alone(engine, name, loss):
    models = made(name)
    stacked = engine(copy.deepcopy(models), loss)
    torch.manual_seed(1)
    inputs, labels = torch.randn(3, 9, 1, 8, 8), torch.randint(10, (3, 9))
    for gradient in stacked.gradients:
        gradient.fill_(torch.nan)
    if engine is LoopedEngine:  # it clears its own accumulators
        for gradient in stacked.gradients:
            gradient.fill_(7.0)
    stacked.backward(inputs, labels)
    for replica, model in enumerate(models):
        model = model.double()
        LOSSES[loss](model(inputs[replica].double()), labels[replica]).backward()
        for index, (key, parameter) in enumerate(model.named_parameters()):
            assert stacked.names[index] == key
            scale = parameter.grad.abs().max().item()
            torch.testing.assert_close(
                stacked.gradients[index][replica].double(),
                parameter.grad,
                rtol=1e-3,
                atol=(1e-3 if name == "resnet18" else 1e-5) * scale,
                msg=key,
            )


@pytest.mark.parametrize(("engine", "name"), CASES)
def test_evaluation_is_that_of_each_network_in_eval_mode(engine, name):
    models = made(name)
    stacked = engine(copy.deepcopy(models), "mse")
    inputs = torch.randn(5, 1, 8, 8)
    features, logits = stacked.evaluate(inputs)
    for replica, model in enumerate(models):
        model.eval()
        torch.testing.assert_close(features[replica], model.features(inputs), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits[replica], model(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", [LoopedEngine, VmapEngine])
def test_batch_norm_statistics_move_for_each_replica(engine):
    models = made("resnet18")
    stacked = engine(copy.deepcopy(models), "ce")
    inputs, labels = torch.randn(3, 6, 1, 8, 8), torch.randint(10, (3, 6))
    stacked.backward(inputs, labels)
    for replica, model in enumerate(models):
        model(inputs[replica])
        for key, buffer in model.named_buffers():
            torch.testing.assert_close(stacked.buffers()[key][replica], buffer)


@pytest.mark.parametrize(("engine", "name"), CASES)
def test_a_pull_reaches_the_hidden_layers_alone(engine, name):
    models = made(name)
    stacked = engine(copy.deepcopy(models), "mse")
    torch.manual_seed(1)
    inputs, labels = torch.randn(3, 9, 1, 8, 8), torch.randint(10, (3, 9))
    wanted = {}

    def pull(features, given):
        assert given is labels
        return wanted.setdefault("pull", torch.randn_like(features))

    stacked.backward(inputs, labels, pull)
    gradients = [g.clone() for g in stacked.gradients]
    plain = engine(copy.deepcopy(models), "mse")
    plain.backward(inputs, labels)
    for found, expected in zip(gradients, plain.gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for replica, model in enumerate(models):
        model = model.double()
        model.features(inputs[replica].double()).backward(wanted["pull"][replica].double())
        for index, (key, parameter) in enumerate(model.named_parameters()):
            found = stacked.pulled[index][replica].double()
            if key.startswith("classifier."):
                assert not found.any(), key
                continue
            scale = parameter.grad.abs().max().item()
            atol = (1e-3 if name == "resnet18" else 1e-5) * scale
            torch.testing.assert_close(found, parameter.grad, rtol=1e-3, atol=atol, msg=key)
