"""`Network`: what a model must offer to be trained and measured."""

from __future__ import annotations

from torch import Tensor, nn


class Network(nn.Module):
    """A classifier whose penultimate features are the input of a linear layer.

    A subclass sets the three attributes in its constructor; nothing else is needed. Its trainer
    stacks the parameters of several such networks, so the forward pass must work under
    `torch.func.functional_call` and must not depend on values that differ between seeds.

    Attributes:
        features: from inputs (N, ...) to features (N, D).
        classifier: from features (N, D) to logits (N, K).
        linear_layers: names of the submodules that ``--scale-layers linear`` scales; the last is
            the classifier.
    """

    features: nn.Module
    classifier: nn.Linear
    linear_layers: tuple[str, ...]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of inputs (N, ...)."""
        logits: Tensor = self.classifier(self.features(x))
        return logits
