"""`Tapped`: a model that keeps its features, also when it is compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ncfast.tracking.capture import FeatureCapture, PoolSpec
from ncfast.tracking.layers import Layer


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
