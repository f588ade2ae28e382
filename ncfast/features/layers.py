"""Finds the layers of a model, and converts their output to features (N, D)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Union

from torch import nn

Layer = Union[str, "re.Pattern[str]", type[nn.Module]]
INPUT = ":input"


def resolve_layers(model: nn.Module, layers: Layer | Sequence[Layer] | None) -> tuple[str, ...]:
    """The names of the chosen layers, in the order of ``layers`` and without repetition.

    Args:
        model: any module.
        layers: names from ``model.named_modules()``, patterns with wildcards ("blocks.*"), compiled
            regular expressions that match a whole name, or types of modules. A name or pattern
            that ends in ":input" selects the layer's first argument instead of its output. "" is
            the name of the model itself. None selects the input of the last nn.Linear.

    Raises:
        ValueError: an entry matches no layer, or ``layers`` is None and there is no nn.Linear.
        TypeError: an entry is not a name, a pattern or a type.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    if layers is None:
        # a model that is an nn.Linear, a linear probe, is its own last linear layer
        return (INPUT if isinstance(model, nn.Linear) else _last_linear(modules),)
    single = isinstance(layers, (str, re.Pattern, type)) or not isinstance(layers, Iterable)
    wanted: list[Layer] = [layers] if single else list(layers)  # type: ignore[list-item, arg-type]
    if not wanted:
        raise ValueError(
            "Expected argument `layers` to name at least one layer but got none. Pass None for the "
            f"input of the last nn.Linear, or one or more of {list(modules)}."
        )
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
