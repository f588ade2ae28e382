"""One asynchronous copy of a block of results from the device to the host."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """Values on their way to the host; making it does not synchronise.

    On CUDA the copy goes into pinned memory on a stream of its own, behind what the current stream
    has queued; training that is queued afterwards does not wait for it.

    Args:
        values: one axis.
    """

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._values = values if values.device.type != "cuda" else self._start(values)

    def _start(self, values: Tensor) -> Tensor:
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        side = _side_stream(values.device)
        side.wait_stream(torch.cuda.current_stream(values.device))
        with torch.cuda.stream(side):
            host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(side)
        values.record_stream(side)  # its memory must not be reused before the copy is over
        return host

    def wait(self) -> Tensor:
        """The values in the host's memory, float64; waits for the copy if it is under way."""
        if self._event is not None:
            self._event.synchronize()
        return self._values.to(device="cpu", dtype=torch.float64)


_side_streams: dict[torch.device, torch.cuda.Stream] = {}


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    if device not in _side_streams:
        _side_streams[device] = torch.cuda.Stream(device)
    return _side_streams[device]
