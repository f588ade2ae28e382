"""Plain training of a network, for the measurement of tracking."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ncfast.benchmarks.registry import Inputs

CLASSES = 10
Parts = tuple[nn.Module, nn.Module, nn.Module]  # a model, its features and its last layer


class Loop:
    """A network in training: that of figure 2 with parameters times 8, ResNet18, transformer."""

    def __init__(self, inputs: Inputs) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model, self.features, self.head = BUILDERS[inputs["model"]](inputs)
        self.model.to(inputs["inputs"].device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=0.01, fused=True)
        self.inputs, self.done = inputs, 0

    def step(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One update; loss, logits, features and labels of its batch."""
        batch = self.done % len(self.inputs["labels"])
        x, y = (self.inputs[name][batch] for name in ("inputs", "labels"))
        self.done += 1
        feats = self.features(x)
        logits = self.head(feats)
        loss = functional.cross_entropy(logits, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach(), logits.detach(), feats.detach(), y


def perceptron(inputs: Inputs) -> Parts:
    """784-D-D-D-10, all parameters times 8: the grokking recipe."""
    sizes = (784, *(inputs["width"],) * 3)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    features, head = nn.Sequential(*layers), nn.Linear(sizes[-1], CLASSES)
    model = nn.Sequential(features, head)
    for parameter in model.parameters():
        parameter.data.mul_(8)
    return model, features, head


def resnet(inputs: Inputs) -> Parts:
    from ncfast.experiments.models.resnet import ResNet18

    model = ResNet18(inputs["inputs"].shape[2:], CLASSES)
    return model, model.features, model.classifier


def transformer(inputs: Inputs) -> Parts:
    """One layer on patches of 4 x 4 pixels."""
    from ncfast.experiments.models.transformer import Transformer

    model = Transformer(inputs["inputs"].shape[2:], CLASSES)
    return model, model.features, model.classifier


BUILDERS: dict[str, Callable[[Inputs], Parts]] = {
    "mlp": perceptron,
    "resnet18": resnet,
    "transformer": transformer,
}
