"""Features of chosen layers, caught by forward hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ncfast.tracking.hook import Hook, idle_hook
from ncfast.tracking.layers import (
    INPUT,
    Layer,
    Pool,
    as_pool,
    batch_first,
    is_preset,
    resolve,
    tensor_of,
    uncompiled,
)

PoolSpec = str | Pool | None
_idle_hook = idle_hook  # the name that models saved by version 0.1 ask for


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
        modules = dict(model.named_modules())
        layer = {name: modules[name.removesuffix(INPUT)] for name in self.names}
        pools = _pools(self.names, pool)
        self._pools = {name: batch_first(pools[name], layer[name]) for name in self.names}
        self._hooks = {
            name: Hook(layer[name], name.endswith(INPUT), whole=not is_preset(pools[name]))
            for name in self.names
        }
        self._modules, self._usual = layer, dict[tuple[str, str], int]()
        self._handles = [
            layer[name].register_forward_hook(hook, with_kwargs=True)
            for name, hook in self._hooks.items()
        ]
        self._enabled = True
        self.lasting = False  # the hooks belong to the model and stay on it

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

    def repeated(self) -> dict[str, int]:
        """Layers that ran several times since the last `take`, and how often; each is told once."""
        return {n: calls for n, hook in self._hooks.items() if (calls := hook.calls_to_report())}

    def out_of_mode(self, split: str) -> list[str]:
        """Layers of which only calls in another mode than that of the split's steps are kept.

        That is a lower rank (see `Hook`) than in an earlier step, or eval mode where the layer is
        in training mode by now.
        """
        found = []
        for name, hook in self._hooks.items():
            if hook.value is None and hook.side is None:
                continue
            rank, training = hook.rank, self._modules[name].training
            usual = self._usual.get((split, name), rank)
            self._usual[split, name] = max(usual, rank)
            if rank < usual or (0 <= rank < 2 and training):
                found.append(name)
        return found

    def usual(self, split: str) -> int:
        """The highest rank that a step of the split has measured; -1 for none."""
        return max((rank for (s, _), rank in self._usual.items() if s == split), default=-1)

    def clear(self) -> None:
        """Forget the features."""
        for hook in self._hooks.values():
            hook.clear()

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Inside, the hooks see nothing of the forward passes outside, and the other way round."""
        kept = {name: hook.set_aside() for name, hook in self._hooks.items()}
        try:
            yield
        finally:
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
    "ncfast.tracking.Tapped(model) and track that."
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


class Tapped(nn.Module):
    """Runs a model and keeps the features of chosen layers, for a `Tracker` to take.

    ``torch.compile`` traces the taps with the model, in one graph: make it, compile it, and give
    either to the tracker. The forward pass returns what the model returns. Parameters are those of
    `module`, whose own state_dict is unchanged.

    Args:
        module: the model.
        layers: see `Tracker`.
        pool: see `Tracker`.

    Raises:
        ValueError: unknown layers or pooling.

    Example:
        >>> import torch, ncfast
        >>> from ncfast.tracking import Tapped
        >>> model = Tapped(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(8, 3)))
        >>> model(torch.randn(4, 8)).shape, model.capture.names
        (torch.Size([4, 3]), ('1:input',))
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Layer | Sequence[Layer] | None = None,
        pool: PoolSpec | Mapping[str, PoolSpec] = None,
    ) -> None:
        super().__init__()
        self.module = module
        self._chosen = (layers, pool)
        self.capture = FeatureCapture(module, layers, pool)
        self.capture.lasting = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns."""
        return self.module(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "capture"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.capture = FeatureCapture(self.module, *self._chosen)
        self.capture.lasting = True


def capture_of(
    model: nn.Module,
    layers: Layer | Sequence[Layer] | None,
    pool: PoolSpec | Mapping[str, PoolSpec],
) -> FeatureCapture:
    """Hooks on a model; of a `Tapped` one those that it has.

    Raises:
        ValueError: unknown layers or pooling, or either for a `Tapped` model.
    """
    if not isinstance(model, Tapped):
        return FeatureCapture(model, layers, pool)
    if layers is not None or pool is not None:
        raise ValueError(
            "Expected arguments `layers` and `pool` to be None for a Tapped model, which has its "
            "own. Pass them to Tapped."
        )
    model.capture.clear()  # what ran before belongs to no step
    return model.capture


def release(capture: FeatureCapture) -> None:
    """Undo `capture_of`: remove the hooks, or let those of a `Tapped` model rest."""
    if capture.lasting:
        capture.enabled = False
        capture.clear()
    else:
        capture.remove()
