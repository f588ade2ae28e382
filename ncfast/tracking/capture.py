"""Features of chosen layers, caught by forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Hook = Callable[..., None]


class FeatureCapture:
    """Keeps the last output (or input) of named layers, detached, while ``enabled``.

    Args:
        model: any module.
        layers: names from ``model.named_modules()``, whose output is taken; "name:input" takes the
            first positional input instead. None takes the input of the last nn.Linear: the
            penultimate features of a classifier.

    Raises:
        ValueError: a name is unknown, or there is no nn.Linear to default to.
    """

    def __init__(self, model: nn.Module, layers: str | Sequence[str] | None) -> None:
        self.names = _resolve(model, layers)
        self.enabled = True
        self._seen: dict[str, Tensor] = {}
        modules = dict(model.named_modules())
        self._handles = [
            modules[name.removesuffix(":input")].register_forward_hook(self._hook(name))
            for name in self.names
        ]

    def _hook(self, name: str) -> Hook:
        from_input = name.endswith(":input")

        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self.enabled:
                value = args[0] if from_input else output
                if not isinstance(value, Tensor):
                    raise TypeError(
                        f"Expected layer {name!r} to yield a tensor but got {type(value).__name__}."
                        " Choose an inner layer, or pass feats= to tracker.step."
                    )
                self._seen[name] = value.detach()

        return keep

    def take(self) -> dict[str, Tensor]:
        """What the layers gave in the last forward pass; forgets it.

        Raises:
            RuntimeError: a layer has not run since the last call.
        """
        missing = [name for name in self.names if name not in self._seen]
        if missing:
            raise RuntimeError(
                f"Expected a forward pass through {missing} before this call but saw no data. "
                "Call it after model(x), or pass feats=. Hooks do not fire inside a model that "
                "was compiled before the tracker was made: make the tracker first."
            )
        seen, self._seen = self._seen, {}
        return seen

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._seen.clear()


def _resolve(model: nn.Module, layers: str | Sequence[str] | None) -> tuple[str, ...]:
    names = [name for name, _ in model.named_modules()]
    if layers is None:
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise ValueError(
                "Expected argument `layers` for a model without an nn.Linear but got None. "
                f"Name one or more of {names[1:]}."
            )
        return (f"{linear[-1]}:input",)
    wanted = (layers,) if isinstance(layers, str) else tuple(layers)
    for name in wanted:
        if name.removesuffix(":input") not in names:
            raise ValueError(
                f"Expected argument `layers` to name modules of the model but got {name!r}. "
                f"Known names: {names[1:]}."
            )
    return wanted


def model_device(model: nn.Module) -> torch.device:
    """Device of the model's first parameter; the CPU when it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
