"""Captures the features of chosen layers with forward hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ncfast.features.classifier import head_of
from ncfast.features.hook import Hook, Padding
from ncfast.features.layers import INPUT, Layer, resolve_layers
from ncfast.features.model import uncompiled
from ncfast.features.pooling import (
    PRESETS,
    MaskedPool,
    Pool,
    as_pool,
    batch_first,
    is_preset,
    tensor_of,
)

PoolSpec = str | Pool | None
_TOKENS = ("last", "gap")  # the poolings that leave out padding


class FeatureCapture:
    """The hooks on the chosen layers of a model, and the features of its last forward pass.

    Args:
        model: any module.
        layers: see `ncfast.features.layers.resolve_layers`.
        pool: how an output becomes features (N, D): "flatten", "gap" (global average), "cls" or
            "last" (token), a function of the layer's output, None for outputs that are (N, D)
            already; or a dict from the name of a layer to one of these.

    Raises:
        ValueError: a layer or a pooling is unknown.

    Attributes:
        names: the names of the layers.
        permanent: whether the hooks belong to the model and stay when a tracker is closed.
        unknown_padding: layers pooled by "last" or "gap" over token ids without an attention mask.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layer | Sequence[Layer] | None = None,
        pool: PoolSpec | Mapping[str, PoolSpec] = None,
    ) -> None:
        model = uncompiled(model)
        self.names = resolve_layers(model, layers)
        modules = dict(model.named_modules())
        layer = {name: modules[name.removesuffix(INPUT)] for name in self.names}
        pools = _pools(self.names, pool)
        self._masked = {
            name: MaskedPool(how)
            for name, chosen in pools.items()
            for how in _TOKENS
            if chosen is PRESETS[how]
        }
        leave_out: dict[str, Pool] = {**pools, **self._masked}
        self._pools = {name: batch_first(leave_out[name], layer[name]) for name in self.names}
        self._padding = Padding(model) if self._masked else None
        self.unknown_padding: set[str] = set()
        self._hooks = {
            name: Hook(layer[name], name.endswith(INPUT), keep_all=not is_preset(pools[name]))
            for name in self.names
        }
        self._modules = layer
        self._ranks = dict[tuple[str, str], int]()  # highest so far, by split and layer
        self._handles = [
            layer[name].register_forward_hook(hook, with_kwargs=True)
            for name, hook in self._hooks.items()
        ]
        if self._padding is not None:
            self._handles.append(model.register_forward_pre_hook(self._padding, with_kwargs=True))
        self._enabled = True
        self.permanent = False

    @property
    def enabled(self) -> bool:
        """Whether the hooks keep features; a disabled hook keeps no activation alive."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        if value != self._enabled:
            self._enabled = value
            for hook in self._hooks.values():
                hook.enabled = value
            if self._padding is not None:
                self._padding.enabled = value

    @property
    def direct_hook(self) -> Hook | None:
        """The hook of the only layer, if its output needs no pooling; else None."""
        direct = len(self.names) == 1 and self._pools[self.names[0]] is tensor_of
        return self._hooks[self.names[0]] if direct else None

    def heads(self, num_classes: int) -> dict[str, nn.Linear]:
        """The linear classifiers of the layers that have one, see `head_of`."""
        found = {n: head_of(m, n, num_classes) for n, m in self._modules.items()}
        return {name: head for name, head in found.items() if head is not None}

    @torch.no_grad()
    def take(self) -> tuple[dict[str, Tensor], dict[str, Exception]]:
        """Return and forget the features of the last forward pass, and the errors by layer.

        The error is a RuntimeError for a layer that has not run since the last call, a ValueError
        for an output that was changed in place since, and the exception of the pooling otherwise.
        """
        features: dict[str, Tensor] = {}
        errors: dict[str, Exception] = {}
        for pool in self._masked.values():
            pool.mask = None if self._padding is None else self._padding.mask
        for name in self._hooks:
            try:
                features[name] = self._features(name)
            except Exception as error:  # noqa: PERF203  (a pooling function is the user's)
                errors[name] = error
        self._note_padding()
        return features, errors

    def _note_padding(self) -> None:
        """Record the layers whose padding is unknown, and forget the mask."""
        if self._padding is not None:
            for name, pool in self._masked.items():
                unknown = pool.mask is None and self._padding.tokens
                if pool.pooled and (unknown or pool.unfit):
                    self.unknown_padding.add(name)
            self._padding.clear()

    def _features(self, name: str) -> Tensor:
        value = self._hooks[name].take()
        if value is None:
            raise RuntimeError(_NO_DATA.format(name=name))
        return self._pools[name](value).detach()

    def repeated(self) -> dict[str, int]:
        """The number of calls since the last `take`, for each layer that ran several times.

        Each layer is reported once.
        """
        return {n: calls for n, hook in self._hooks.items() if (calls := hook.calls_to_report())}

    def out_of_mode(self, split: str) -> list[str]:
        """The layers whose kept call is in another mode than the steps of the split.

        Its rank (see `Hook`) is lower than in an earlier step, or it ran in eval mode and the layer
        is in training mode now.
        """
        found = []
        for name, hook in self._hooks.items():
            if hook.value is None and hook.lower_value is None:
                continue
            rank, training = hook.rank, self._modules[name].training
            highest = self._ranks.get((split, name), rank)
            self._ranks[split, name] = max(highest, rank)
            if rank < highest or (0 <= rank < 2 and training):
                found.append(name)
        return found

    def highest_rank(self, split: str) -> int:
        """The highest rank that a step of the split has measured; -1 for none."""
        return max((rank for (s, _), rank in self._ranks.items() if s == split), default=-1)

    def clear(self) -> None:
        """Forget the features."""
        for hook in self._hooks.values():
            hook.clear()
        if self._padding is not None:
            self._padding.clear()

    @contextlib.contextmanager
    def isolated(self) -> Iterator[None]:
        """Keep forward passes inside the block apart from those outside of it."""
        kept = {name: hook.set_aside() for name, hook in self._hooks.items()}
        padding = None if self._padding is None else self._padding.set_aside()
        try:
            yield
        finally:
            if self._padding is not None and padding is not None:
                self._padding.put_back(padding)
            for name, hook in self._hooks.items():
                hook.put_back(kept[name])

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self.clear()


_NO_DATA = (
    "Expected a forward pass through {name!r} before this call but saw no data. Call it after "
    "model(x), or pass feats=. Hooks do not fire inside a model that was compiled and had run "
    "before the tracker was made: make the tracker first, or compile "
    "ncfast.tracking.FeatureExtractor(model) and track that."
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
