"""Finds the linear classifier of a measured layer, and reads its parameters as they are now."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ncfast.features.layers import INPUT


class Classifier(NamedTuple):
    """A linear classifier at some step, detached, of floats of 16 to 64 bits."""

    weight: Tensor  # (K, D)
    bias: Tensor | None  # (K,)


def head_of(module: nn.Module, name: str, num_classes: int) -> nn.Linear | None:
    """The linear classifier of a measured layer: an nn.Linear with K rows whose input it is.

    Args:
        module: the module that is hooked.
        name: of the layer; only that of an input has a classifier.
        num_classes: K.
    """
    if not isinstance(module, nn.Linear) or not name.endswith(INPUT):
        return None
    return module if module.out_features == num_classes else None


def classifier_of(head: nn.Linear | None, feats: Tensor | None = None) -> Classifier | None:
    """The parameters of a layer as they are now; None where ``feats`` (N, D) do not fit them.

    Parameters that are sharded or flattened are not gathered.
    """
    if head is None:
        return None
    weight, bias = weight_of(head), head.bias
    parts = [part for part in (weight, bias) if part is not None]
    plain = all(type(part.data) is Tensor for part in parts)
    if not plain or weight.shape != (head.out_features, head.in_features):
        return None
    if feats is not None and feats.shape[1] != head.in_features:
        return None
    if feats is not None and any(part.device != feats.device for part in parts):
        return None
    return Classifier(weight, None if bias is None else bias.detach())


def weight_of(linear: nn.Linear) -> Tensor:
    """The weight as eval mode has it now, detached; reading it changes nothing.

    A parametrization may update its buffers when it is read in training mode, and `weight_norm` and
    `spectral_norm` of torch.nn.utils compute the weight in the forward pass only.
    """
    parameter = linear._parameters.get("weight")
    if parameter is not None:
        return parameter.detach()
    modes = [(module, module.training) for module in linear.modules()]
    try:
        linear.eval()
        with torch.no_grad():
            return _computed_weight(linear).detach()
    finally:
        for module, training in modes:
            module.training = training


def _computed_weight(linear: nn.Linear) -> Tensor:
    for hook in linear._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == "weight":
            return hook.compute_weight(linear)
        if isinstance(hook, SpectralNorm) and hook.name == "weight":
            return hook.compute_weight(linear, do_power_iteration=False)
    return linear.weight
