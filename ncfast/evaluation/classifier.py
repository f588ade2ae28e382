"""Finds the classifier of a network: the nn.Linear with K rows that reads a measured layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ncfast.evaluation.group import Group
from ncfast.features.classifier import Classifier, head_of, weight_of
from ncfast.features.layers import INPUT, resolve_layers


def rows_of_last_linear(network: nn.Module) -> int:
    """K of a network that ends in an nn.Linear.

    Raises:
        ValueError: it has no nn.Linear.
    """
    try:
        (name,) = resolve_layers(network, None)
    except ValueError:
        raise ValueError(
            "Expected argument `num_classes` for a network without an nn.Linear but got None."
        ) from None
    last: nn.Linear = network.get_submodule(name.removesuffix(INPUT))  # type: ignore[assignment]
    return last.out_features


def classifier_of_input(network: nn.Module, layer: str, num_classes: int) -> Classifier | None:
    """The classifier whose input is measured, by the name of the layer: "fc:input"."""
    head = head_of(network.get_submodule(layer.removesuffix(INPUT)), layer, num_classes)
    return None if head is None else _parameters(head, num_classes)


class Readers:
    """Finds the nn.Linear with K rows that reads the features of a layer, unchanged.

    If the output of the layer before the classifier is measured, its features lie in every batch in
    the memory that the nn.Linear reads.

    Args:
        network: the network, which gets hooks until `remove`.
        num_classes: K.
    """

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        modules = (module for module in network.modules() if isinstance(module, nn.Linear))
        self._linear = [module for module in modules if module.out_features == num_classes]
        self._inputs: dict[nn.Linear, Tensor] = {}
        self._reads: dict[tuple[str, nn.Linear], bool] = {}
        self._handles = [linear.register_forward_pre_hook(self._keep) for linear in self._linear]

    def compare(self, feats: Mapping[str, Tensor]) -> None:
        """Compare the features of a forward pass with the input of each nn.Linear in that pass."""
        for layer, found in feats.items():
            for linear in self._linear:
                same = _same_memory(found, self._inputs.get(linear))
                self._reads[layer, linear] = same and self._reads.get((layer, linear), True)
        self._inputs.clear()

    def of(self, layer: str, group: Group) -> Classifier | None:
        """The classifier that has read the layer in every batch of every rank."""
        if not group.any(bool(self._reads)):
            return None  # no rank had a batch
        for linear in self._linear:
            if group.all(self._reads.get((layer, linear), True)):
                return _parameters(linear, linear.out_features)
        return None

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _keep(self, linear: nn.Linear, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            self._inputs[linear] = args[0].detach()


def _same_memory(feats: Tensor, other: Tensor | None) -> bool:
    if other is None:
        return False
    alike = feats.shape == other.shape and feats.stride() == other.stride()
    return alike and feats.data_ptr() == other.data_ptr()


def _parameters(linear: nn.Linear, num_classes: int) -> Classifier | None:
    if linear.out_features != num_classes:
        return None
    bias = None if linear.bias is None else linear.bias.detach()
    return Classifier(weight_of(linear), bias)
