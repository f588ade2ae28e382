"""Finds the layers of a model by name, pattern or type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Union

import torch
from torch import nn

Layer = Union[str, "re.Pattern[str]", type[nn.Module]]
INPUT = ":input"


def resolve(model: nn.Module, layers: Layer | Sequence[Layer] | None) -> tuple[str, ...]:
    """Names of the chosen layers, in the order of ``layers`` and without repetition.

    Args:
        model: any module.
        layers: names from ``model.named_modules()``, patterns with wildcards ("blocks.*"), compiled
            regular expressions that match a whole name, or types of modules. A name or pattern
            that ends in ":input" selects the first argument of the layer instead of its output.
            The name of the model itself is "". None selects the input of the last nn.Linear.

    Raises:
        ValueError: an entry matches no layer, or ``layers`` is None and there is no nn.Linear.
        TypeError: an entry is not a name, a pattern or a type.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    if layers is None:
        # a linear probe is its own last linear layer
        return (INPUT if isinstance(model, nn.Linear) else _last_linear(modules),)
    single = isinstance(layers, (str, re.Pattern, type))
    wanted: Iterable[Layer] = (layers,) if single else layers  # type: ignore[assignment]
    found: list[str] = []
    for layer in wanted:
        matches = _matches(modules, layer)
        if not matches:
            raise ValueError(
                f"Expected argument `layers` to name modules of the model but got {layer!r}. "
                f"Known names: {list(modules)}."
            )
        found += matches
    return tuple(dict.fromkeys(found))


def _matches(modules: dict[str, nn.Module], layer: Layer) -> list[str]:
    if isinstance(layer, re.Pattern):
        return [name for name in modules if layer.fullmatch(name)]
    if isinstance(layer, type):
        return [name for name, module in modules.items() if isinstance(module, layer)]
    if not isinstance(layer, str):
        raise TypeError(
            "Expected argument `layers` to hold names, patterns or types of modules but got "
            f"{type(layer).__name__}."
        )
    if layer in ("", INPUT):
        return [layer]
    pattern = layer.removesuffix(INPUT)
    suffix = layer[len(pattern) :]
    return [name + suffix for name in modules if name == pattern or fnmatchcase(name, pattern)]


def _last_linear(modules: dict[str, nn.Module]) -> str:
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(
            "Expected argument `layers` for a model without an nn.Linear but got None. "
            f"Name one or more of {list(modules)}."
        )
    return linear[-1] + INPUT


def uncompiled(model: nn.Module) -> nn.Module:
    """The original module of a compiled one; any other module is returned unchanged."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def model_device(model: nn.Module) -> torch.device:
    """Device of the model's first parameter; the CPU if it has no parameter."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
