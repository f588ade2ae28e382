"""`Network`: the interface that a model needs for training and measuring."""

from __future__ import annotations

from torch import Tensor, nn


class Network(nn.Module):
    """A classifier whose penultimate features are the input of a linear layer.

    A subclass only has to set the three attributes in its constructor. Training stacks the
    parameters of several networks. The forward pass must therefore work under
    `torch.func.functional_call`, and must not depend on other values that differ between seeds.

    Attributes:
        features: maps inputs (N, ...) to features (N, D).
        classifier: maps features (N, D) to logits (N, K).
        linear_layers: names of the submodules that ``--scale-layers linear`` scales; the
            classifier is the last.
    """

    features: nn.Module
    classifier: nn.Linear
    linear_layers: tuple[str, ...]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of inputs (N, ...)."""
        logits: Tensor = self.classifier(self.features(x))
        return logits
