"""Counters for kernels whose last program finishes the work. A counter is 0 between launches.

Two launches may share a counter only if they cannot overlap. Launches on one stream do not overlap,
so each stream has one counter. Replays of one graph do not overlap each other but may overlap other
launches, so a captured launch owns its counter for the rest of the process. The counter is set to 0
before the capture; torch synchronises when a capture begins.
"""

from __future__ import annotations

from itertools import count

import torch
from torch import Tensor

_RESERVE = 1024
_of_stream: dict[tuple[torch.device, int], Tensor] = {}
_reserves: dict[torch.device, tuple[Tensor, count[int]]] = {}


def counter(device: torch.device) -> Tensor:
    """A zero () int32 for one launch on the current stream of ``device``."""
    if device.type != "cuda":
        return torch.zeros((), dtype=torch.int32, device=device)
    if torch.cuda.is_current_stream_capturing():
        return _captured(device)
    key = (device, torch.cuda.current_stream(device).cuda_stream)
    if key not in _of_stream:
        _of_stream[key] = torch.zeros((), dtype=torch.int32, device=device)
        if device not in _reserves:
            _reserves[device] = torch.zeros(_RESERVE, dtype=torch.int32, device=device), count()
    return _of_stream[key]


def _captured(device: torch.device) -> Tensor:
    numbers, used = _reserves.get(device, (None, count(_RESERVE)))
    number = next(used)
    if numbers is None or number >= _RESERVE:
        # no call preceded the capture, or the reserve is used up: the graph gets its own memset
        return torch.zeros((), dtype=torch.int32, device=device)
    return numbers[number]
