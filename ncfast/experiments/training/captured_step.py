"""Runs a training step: as a captured graph on CUDA, eagerly elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UP = 3


class CapturedStep:
    """A training step that takes (R, B) indices. On CUDA it becomes one graph launch.

    On CUDA the first calls run eagerly, to warm up libraries and the allocator. Then one graph is
    captured for each shape of the indices, because the last batch of an epoch may be short, and for
    each ``kind`` of step.

    Args:
        function: the step; on CUDA it must not synchronise, and every call must use the same
            tensors.
        device: where the step runs.
    """

    def __init__(self, function: Callable[[Tensor], None], device: torch.device) -> None:
        self._function, self._device = function, device
        self._graphs: dict[tuple[torch.Size, object], tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._calls = 0

    def __call__(self, indices: Tensor, kind: object = None) -> None:
        """Run one step on ``indices``, (R, B) int64 on the CPU."""
        if self._device.type != "cuda":
            self._function(indices.to(self._device))
            return
        self._calls += 1
        if self._calls <= _WARM_UP:
            self._on_side_stream(indices)
            return
        key = (indices.shape, kind)
        if key not in self._graphs:
            self._graphs[key] = self._capture(indices)
        graph, static = self._graphs[key]
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
        # capturing does not execute: the first replay is the step
        static.copy_(indices)
        with torch.cuda.graph(graph):
            self._function(static)
        return graph, static
