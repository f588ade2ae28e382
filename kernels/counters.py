"""Counters for kernels whose last program finishes the work: zero between launches.

Two launches may share a counter if they cannot overlap. Launches on one stream cannot, so a stream
has one. Neither can the replays of one graph, but they may overlap everything else, so a launch
that is captured takes a counter of its own and keeps it for ever. Its zero was written before the
capture, which torch begins with a synchronisation.
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
        # without a call before the capture, or after very many: a memset becomes part of the graph
        return torch.zeros((), dtype=torch.int32, device=device)
    return numbers[number]
