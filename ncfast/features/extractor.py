"""`FeatureExtractor`: a model with hooks of its own, which torch.compile traces with the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from ncfast.features.capture import FeatureCapture, PoolSpec
from ncfast.features.layers import Layer


class FeatureExtractor(nn.Module):
    """Runs a model and keeps the features of chosen layers, for a `Tracker` to take.

    ``torch.compile`` traces the hooks together with the model, in one graph: make the extractor,
    compile it, and give either to the tracker. The forward pass returns what the model returns.
    The parameters are those of `module`, whose own state_dict is unchanged.

    Args:
        module: the model.
        layers: see `Tracker`.
        pool: see `Tracker`.

    Raises:
        ValueError: a layer or a pooling is unknown.

    Example:
        >>> import torch, ncfast
        >>> from ncfast.tracking import FeatureExtractor
        >>> model = FeatureExtractor(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(8, 3)))
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
        self._attach()

    def _attach(self) -> None:
        self.capture = FeatureCapture(self.module, *self._chosen)
        self.capture.permanent = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        return self.module(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "capture"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._attach()


def attach_hooks(
    model: nn.Module,
    layers: Layer | Sequence[Layer] | None,
    pool: PoolSpec | Mapping[str, PoolSpec],
) -> FeatureCapture:
    """Put hooks on a model; a `FeatureExtractor` has its own already.

    Raises:
        ValueError: a layer or a pooling is unknown, or one is passed for a `FeatureExtractor`.
    """
    if not isinstance(model, FeatureExtractor):
        return FeatureCapture(model, layers, pool)
    if layers is not None or pool is not None:
        raise ValueError(
            "Expected arguments `layers` and `pool` to be None for a FeatureExtractor, which has "
            "its own, but got at least one. Pass them to FeatureExtractor."
        )
    model.capture.clear()  # earlier forward passes belong to no step
    return model.capture


def release_hooks(capture: FeatureCapture) -> None:
    """Undo `attach_hooks`: remove the hooks, or disable those of a `FeatureExtractor`."""
    if capture.permanent:
        capture.enabled = False
        capture.clear()
    else:
        capture.remove()


# names that models saved by version 0.1 look up when they are loaded

Tapped = FeatureExtractor


def _idle_hook() -> Callable[..., None]:
    """A hook that does nothing, for models that were saved while they were tracked."""
    return contextlib.nullcontext().__exit__
