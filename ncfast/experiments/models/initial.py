"""Changes an initialisation: draws layers anew, scales them, or sets the last one to zero."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from ncfast.experiments.models.protocol import Network

WHICH = ("all", "linear", "last")
INITS = ("default", "lecun", "orthogonal")


@torch.no_grad()
def draw_parameters(model: Network, init: str) -> None:
    """Draw the linear layers of a network anew, in place, from the global random stream.

    Convolutions, attention, embeddings and normalisations keep PyTorch's initialisation. Biases of
    the linear layers become zero, except with "default".

    Args:
        model: a network of `ncfast.experiments.models`.
        init: "default" changes nothing; "lecun" draws normal weights with variance 1 / fan-in;
            "orthogonal" draws a random orthogonal matrix, or its first rows or columns.

    Raises:
        ValueError: ``init`` is unknown.

    Example:
        >>> from ncfast.experiments.models import MLP
        >>> model = MLP(4, (3,), 2)
        >>> draw_parameters(model, "orthogonal")
        >>> w = model.classifier.weight.detach()
        >>> torch.allclose(w @ w.T, torch.eye(2), atol=1e-6)
        True
    """
    if init not in INITS:
        raise ValueError(f"Expected `init` to be one of {INITS} but got {init!r}.")
    if init == "default":
        return
    inside = (
        module for name in model.linear_layers for module in model.get_submodule(name).modules()
    )
    for layer in (module for module in inside if isinstance(module, nn.Linear)):
        if init == "lecun":
            layer.weight.normal_(0, layer.in_features**-0.5)
        else:
            nn.init.orthogonal_(layer.weight)
        layer.bias.zero_()


@torch.no_grad()
def scale_parameters(model: Network, factor: float, which: str = "all") -> None:
    """Multiply parameters by ``factor``, in place. This is the init scale of the grokking recipe.

    Args:
        model: a network of `ncfast.experiments.models`.
        factor: the scale.
        which: "all" for all parameters; "linear" for the linear layers, without convolutions,
            attention, embeddings and normalisations; "last" for the classifier.

    Raises:
        ValueError: ``which`` is unknown.

    Example:
        >>> from ncfast.experiments.models import MLP
        >>> model = MLP(4, (3,), 2)
        >>> before = model.classifier.bias.detach().clone()
        >>> scale_parameters(model, 8.0, "last")
        >>> bool((model.classifier.bias == 8 * before).all())
        True
    """
    if which not in WHICH:
        raise ValueError(f"Expected `scale_layers` to be one of {WHICH} but got {which!r}.")
    for parameter in _chosen(model, which):
        parameter.mul_(factor)


def _chosen(model: Network, which: str) -> Iterator[nn.Parameter]:
    if which == "all":
        yield from model.parameters()
        return
    names = ("classifier",) if which == "last" else model.linear_layers
    for name in names:
        yield from model.get_submodule(name).parameters()


@torch.no_grad()
def zero_last_layer(model: Network) -> None:
    """Set weight and bias of the classifier to zero, in place; all outputs are then zero."""
    for parameter in model.classifier.parameters():
        parameter.zero_()
