"""Finds the layers of a model, and converts their output to features (N, D)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Union

from torch import Tensor, nn

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


Pool = Callable[[Any], Tensor]

_KEYS = ("last_hidden_state", "hidden_states", "logits")


def tensor_of(output: Any) -> Tensor:
    """The tensor in the output of a layer.

    A tensor is returned unchanged. A tuple or list gives its first entry, which is the output of
    attention and recurrent layers. A dict or ModelOutput gives the first that it has of
    ``last_hidden_state``, the last entry of ``hidden_states``, and ``logits``; or else its only
    value.

    Raises:
        TypeError: the output holds no tensor, or it is unclear which tensor is meant.
    """
    found = find_tensor(output)
    if found is not None:
        return found
    keys = f" with the keys {list(output)}" if isinstance(output, Mapping) else ""
    kind = type(output).__name__ + keys
    raise TypeError(
        f"Expected a layer to return a tensor, or a tuple or dict that holds one, but got {kind}. "
        "Choose an inner layer, pass pool=, a function from that output to features (N, D), or "
        "pass feats= to tracker.step."
    )


def find_tensor(output: Any) -> Tensor | None:
    """The tensor that `tensor_of` returns; None if it would raise."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        found = next((key for key in _KEYS if output.get(key) is not None), None)
        if found is None and len(output) == 1:
            found = next(iter(output))
        if found is None:
            return None
        inner = output[found]
        return find_tensor(inner[-1] if found == "hidden_states" and inner else inner)
    return find_tensor(output[0]) if isinstance(output, (tuple, list)) and output else None


def flatten(output: Any) -> Tensor:
    """All values of a sample in one row: (N, ...) to (N, D)."""
    return tensor_of(output).flatten(1)


def gap(output: Any) -> Tensor:
    """The average over the positions of (N, C, H, W[, Z]) or over the tokens of (N, T, D).

    Raises:
        ValueError: the output does not have 3, 4 or 5 axes.
    """
    tensor = tensor_of(output)
    if tensor.ndim == 3:
        return tensor.mean(1)
    if tensor.ndim in (4, 5):
        return tensor.flatten(2).mean(2)
    raise ValueError(
        "Expected pool='gap' to get an output of shape (N, T, D) or (N, C, H, W) but got "
        f"{tuple(tensor.shape)}. Pass a function as pool= for other shapes."
    )


def cls(output: Any) -> Tensor:
    """The first token of (N, T, D).

    Raises:
        ValueError: the output does not have 3 axes.
    """
    return _token(output, 0, "cls")


def last(output: Any) -> Tensor:
    """The last token of (N, T, D).

    Raises:
        ValueError: the output does not have 3 axes.
    """
    return _token(output, -1, "last")


def _token(output: Any, position: int, name: str) -> Tensor:
    tensor = tensor_of(output)
    if tensor.ndim != 3:
        raise ValueError(
            f"Expected pool={name!r} to get an output of shape (N, T, D) but got "
            f"{tuple(tensor.shape)}. Use 'gap' or 'flatten' for feature maps."
        )
    return tensor[:, position]


PRESETS: dict[str, Pool] = {"flatten": flatten, "gap": gap, "cls": cls, "last": last}


def is_preset(pool: Pool) -> bool:
    """Whether ``pool`` is a function of this module; these read only one tensor."""
    return pool is tensor_of or pool in PRESETS.values()


def batch_first(pool: Pool, layer: nn.Module) -> Pool:
    """A pooling for the outputs of ``layer``, whose sequences may be (T, N, D).

    That is the default of torch's layers. The layer's settings decide, not the shape of the output,
    in which T and N may be equal.
    """
    if pool not in PRESETS.values() or not _sequence_first(layer):
        return pool

    def transposed(output: Any) -> Tensor:
        tensor = tensor_of(output)
        return pool(tensor.transpose(0, 1) if tensor.ndim == 3 else tensor)

    return transposed


def _sequence_first(layer: nn.Module) -> bool:
    if isinstance(layer, (nn.TransformerEncoder, nn.TransformerDecoder)):
        return bool(layer.layers) and _sequence_first(layer.layers[0])
    if isinstance(layer, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
        layer = layer.self_attn
    known = isinstance(layer, (nn.RNNBase, nn.MultiheadAttention, nn.Transformer))
    return known and not layer.batch_first


def as_pool(pool: str | Pool | None) -> Pool:
    """The pooling function: a preset by its name, a function unchanged, `tensor_of` for None.

    Raises:
        ValueError: the name is unknown.
    """
    if pool is None:
        return tensor_of
    if callable(pool):
        return pool
    if pool not in PRESETS:
        raise ValueError(
            f"Expected argument `pool` to be one of {list(PRESETS)}, a function or None but got "
            f"{pool!r}."
        )
    return PRESETS[pool]
