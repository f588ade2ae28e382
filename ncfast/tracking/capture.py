"""Features of chosen layers, caught by forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ncfast.tracking.layers import INPUT, Layer, resolve, uncompiled
from ncfast.tracking.pooling import Pool, as_pool, tensor_of

PoolSpec = str | Pool | None
_is_compiling = torch.compiler.is_compiling


class Hook:
    """Keeps what a layer last returned (or got) while ``enabled``.

    It belongs to the running process: copying or pickling a model leaves a hook there that does
    nothing.
    """

    def __init__(self, from_input: bool) -> None:
        self.enabled = True
        self.value: Any = None
        self.version = -1  # of the value when the layer ran; -1 where there is no telling
        self._from_input = from_input

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Called by torch after the layer's forward."""
        if self.enabled:
            self.value = value = args[0] if self._from_input else output
            # how often it was changed in place
            tells = isinstance(value, Tensor) and not _is_compiling() and not value.is_inference()
            self.version = value._version if tells else -1

    def take(self) -> Any:
        """The value, which is forgotten; None if there is none.

        Raises:
            ValueError: it was changed in place since.
        """
        value, self.value = self.value, None
        if value is not None and self.version >= 0 and value._version != self.version:
            raise ValueError(_CHANGED)
        return value

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return _idle_hook, ()


def _idle(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """A hook that does nothing."""


def _idle_hook() -> Callable[..., None]:
    return _idle


class FeatureCapture:
    """Hooks on chosen layers, and the features of the last forward pass.

    Args:
        model: any module.
        layers: see `ncfast.tracking.layers.resolve`.
        pool: how an output becomes features (N, D): "flatten", "gap" (global average), "cls" or
            "last" (token), a function of what the layer returns, None for outputs that are (N, D)
            as they are; or a dict from the name of a layer to one of these.

    Raises:
        ValueError: unknown layers or pooling.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layer | Sequence[Layer] | None = None,
        pool: PoolSpec | Mapping[str, PoolSpec] = None,
    ) -> None:
        model = uncompiled(model)
        self.names = resolve(model, layers)
        self._pools = _pools(self.names, pool)
        self._hooks = {name: Hook(name.endswith(INPUT)) for name in self.names}
        modules = dict(model.named_modules())
        self._handles = [
            modules[name.removesuffix(INPUT)].register_forward_hook(hook)
            for name, hook in self._hooks.items()
        ]
        self._enabled = True

    @property
    def enabled(self) -> bool:
        """Whether the hooks keep anything; when not, no activation is kept alive."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        if value != self._enabled:
            self._enabled = value
            for hook in self._hooks.values():
                hook.enabled = value

    @property
    def only(self) -> Hook | None:
        """The hook of a single layer whose output is taken as it is."""
        as_it_is = len(self.names) == 1 and self._pools[self.names[0]] is tensor_of
        return self._hooks[self.names[0]] if as_it_is else None

    @torch.no_grad()
    def take(self) -> tuple[dict[str, Tensor], dict[str, Exception]]:
        """Features of the last forward pass, and what is wrong with the other layers; forgets them.

        A layer that has not run since the last call gives a RuntimeError, one whose output has
        been changed since a ValueError, one whose output cannot be pooled what the pooling raised.
        """
        found: dict[str, Tensor] = {}
        wrong: dict[str, Exception] = {}
        for name in self._hooks:
            try:
                found[name] = self._features(name)
            except Exception as error:  # noqa: PERF203  (a pooling function is the user's)
                wrong[name] = error
        return found, wrong

    def _features(self, name: str) -> Tensor:
        value = self._hooks[name].take()
        if value is None:
            raise RuntimeError(_NO_DATA.format(name=name))
        return self._pools[name](value).detach()

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        for hook in self._hooks.values():
            hook.value = None


_NO_DATA = (
    "Expected a forward pass through {name!r} before this call but saw no data. Call it after "
    "model(x), or pass feats=. Hooks do not fire inside a model that was compiled and had run "
    "before the tracker was made: make the tracker first, or compile "
    "ncfast.tracking.Tapped(model) and track that."
)
_CHANGED = (
    "Expected what the layer returned to be as it was but it was changed in place after the layer "
    "ran, by an nn.ReLU(inplace=True) for example. Track the layer that changed it instead, or "
    "turn inplace off."
)


def _pools(
    names: Sequence[str], pool: PoolSpec | Mapping[str, PoolSpec]
) -> dict[str, Callable[[Any], Tensor]]:
    if not isinstance(pool, Mapping):
        return dict.fromkeys(names, as_pool(pool))
    unknown = [name for name in pool if name not in names]
    if unknown:
        raise ValueError(
            f"Expected the keys of `pool` to be among the layers {list(names)} but got {unknown}."
        )
    return {name: as_pool(pool.get(name)) for name in names}
