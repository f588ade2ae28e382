"""One asynchronous copy of a log point's values from the device to the host."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class HostCopy:
    """Values of one record on their way to the host; making it does not synchronise.

    Args:
        values: 0-d tensors and numbers by name.
    """

    def __init__(self, values: Mapping[str, Tensor | float]) -> None:
        self._numbers = {k: v for k, v in values.items() if not isinstance(v, Tensor)}
        tensors = {k: v.detach() for k, v in values.items() if isinstance(v, Tensor)}
        self._order = list(values)
        self._names = list(tensors)
        self._event: torch.cuda.Event | None = None
        self._packed: Tensor | None = None
        if tensors:
            self._packed = self._start([tensor.to(torch.float64) for tensor in tensors.values()])

    def _start(self, values: list[Tensor]) -> Tensor:
        packed = torch.stack(values)
        if packed.device.type != "cuda":
            return packed
        host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
        host.copy_(packed, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(packed.device))
        return host

    def ready(self) -> bool:
        """Whether the values have arrived."""
        return self._event is None or self._event.query()

    def wait(self) -> dict[str, float]:
        """The values as numbers; waits for the copy if it is under way."""
        if self._event is not None:
            self._event.synchronize()
        values = [] if self._packed is None else self._packed.tolist()
        found = {**self._numbers, **dict(zip(self._names, values, strict=True))}
        return {name: found[name] for name in self._order}
