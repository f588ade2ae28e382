"""The state_dict of a tracker: what a resumed training needs besides its settings."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ncfast.tracking.averaging import Averaging

_AVERAGE = "average/"


def pack(
    step: int, num_classes: int, averaging: Averaging, averages: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The state as a flat dict of tensors.

    Args:
        step: the current step.
        num_classes: K.
        averaging: how batches are averaged.
        averages: the states of the averages by name.
    """
    found = {"step": torch.tensor(step), **_settings(num_classes, averaging)}
    return found | {f"{_AVERAGE}{name}": state for name, state in averages.items()}


def unpack(
    state: Mapping[str, Tensor], num_classes: int, averaging: Averaging
) -> tuple[int, dict[str, Tensor]]:
    """The step and the averages of a state that `pack` returned.

    Raises:
        ValueError: an entry is missing, unknown or no tensor of that kind, or the tracker that was
            saved had another number of classes or another ``stream``.
    """
    own = {"step": torch.tensor(0), **_settings(num_classes, averaging)}
    averages = {k: v for k, v in state.items() if str(k).startswith(_AVERAGE)}
    if state.keys() - averages.keys() != own.keys():
        names = sorted(map(str, state.keys()))
        raise ValueError(
            f"Expected argument `state` to have the entries {sorted(own)} and '{_AVERAGE}...' but "
            f"got {names}. Pass what `Tracker.state_dict` returned."
        )
    for name, value in state.items():
        like = own.get(name, torch.zeros(1, dtype=torch.float64))
        if not isinstance(value, Tensor) or (value.dtype, value.ndim) != (like.dtype, like.ndim):
            raise ValueError(
                f"Expected entry {name!r} of `state` to be a tensor of {like.ndim} dimensions and "
                f"{like.dtype} but got {_kind(value)}. Pass what `Tracker.state_dict` returned."
            )
    for name in own.keys() - {"step"}:
        if state[name].item() != own[name].item():
            raise ValueError(
                f"Expected entry {name!r} of `state` to be {own[name].item()}, as this tracker has "
                f"it, but got {state[name].item()}. Make the tracker with the same num_classes and "
                "stream."
            )
    return int(state["step"]), {k.removeprefix(_AVERAGE): v for k, v in averages.items()}


def _settings(num_classes: int, averaging: Averaging) -> dict[str, Tensor]:
    window = averaging.length if averaging.kind == "window" else 0
    return {
        "num_classes": torch.tensor(num_classes),
        "window": torch.tensor(window),
        "decay": torch.tensor(averaging.decay, dtype=torch.float64),
    }


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__
