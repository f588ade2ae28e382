"""Runs a training step as it is, or on CUDA as a captured graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UP = 3


class CapturedStep:
    """A step that takes (R, B) indices. On CUDA it is launched as one graph after a warm-up.

    The first calls run eagerly, as a graph needs libraries and allocator warm; then one graph is
    captured for each shape of the indices, since the last batch of an epoch may be short.

    Args:
        function: the step; on CUDA it must not synchronise, and must work on the same tensors at
            every call.
        device: where it runs.
    """

    def __init__(self, function: Callable[[Tensor], None], device: torch.device) -> None:
        self._function, self._device = function, device
        self._graphs: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._calls = 0

    def __call__(self, indices: Tensor) -> None:
        """One step on ``indices``, (R, B) int64 on the CPU."""
        if self._device.type != "cuda":
            self._function(indices.to(self._device))
            return
        self._calls += 1
        if self._calls <= _WARM_UP:
            self._on_side_stream(indices)
            return
        if indices.shape not in self._graphs:
            self._graphs[indices.shape] = self._capture(indices)
        graph, static = self._graphs[indices.shape]
        static.copy_(indices.pin_memory(), non_blocking=True)
        graph.replay()

    def _on_side_stream(self, indices: Tensor) -> None:
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            self._function(indices.to(self._device))
        torch.cuda.current_stream(self._device).wait_stream(stream)

    def _capture(self, indices: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        static = torch.empty_like(indices, device=self._device)
        graph = torch.cuda.CUDAGraph()
        # capture records and does not run: the step itself is the first replay
        static.copy_(indices)
        with torch.cuda.graph(graph):
            self._function(static)
        return graph, static
