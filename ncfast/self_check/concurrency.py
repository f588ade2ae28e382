"""Checks that hold on a CUDA device only: repeated calls, several streams, CUDA graphs."""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.self_check.forms import Form, Wrong
from ncfast.self_check.samples import Sample

_STREAMS, _CALLS, _REPEATS = 8, 6, 20
_HOG = 1 << 26  # entries of the memory that is written beside the calls


def streams(form: Form, sample: Sample, device: torch.device) -> None:
    """The same call gives the same bits, alone and beside others that use all the bandwidth.

    Raises:
        Wrong: some bits differ.
    """
    call = form.call(sample, device)
    first = call()
    hog = torch.ones(_HOG, device=device)
    side = [torch.cuda.Stream(device) for _ in range(_STREAMS)]
    torch.cuda.synchronize(device)
    results = [call() for _ in range(_REPEATS)]
    for _ in range(_CALLS):
        for stream in side:
            hog.add_(1)
            with torch.cuda.stream(stream):
                results.append(call())
    torch.cuda.synchronize(device)
    for result in results:
        if not _same(first, result):
            raise Wrong("repeated calls on several streams give different bits")


def graphs(form: Form, samples: list[Sample], device: torch.device) -> None:
    """Two graphs, replayed at the same time with other features, give what the reference gives.

    Raises:
        Wrong: a result is wrong, or the two graphs differ.
    """
    captured = [_Captured(form, samples[0], device) for _ in range(2)]
    side = [torch.cuda.Stream(device) for _ in captured]
    for sample in samples[1:]:
        for each in captured:
            each.take(sample)
        torch.cuda.synchronize(device)
        for each, stream in zip(captured, side, strict=True):
            with torch.cuda.stream(stream):
                each.graph.replay()
        torch.cuda.synchronize(device)
        if not _same(captured[0].found, captured[1].found):
            raise Wrong("two CUDA graphs that run at the same time give different bits")
        form.compare(captured[0].found, sample._replace(name=f"CUDA graph, {sample.name}"))


class _Captured:
    """A call in a CUDA graph, whose arguments can be replaced."""

    def __init__(self, form: Form, sample: Sample, device: torch.device) -> None:
        self.form, self.device = form, device
        self.arguments = form.on(sample, device)
        self.run()  # compiles and loads
        self.graph = torch.cuda.CUDAGraph()
        # a capture takes a stream of the current device
        with torch.cuda.device(device), torch.cuda.graph(self.graph):
            self.found = self.run()

    def run(self) -> tuple[Tensor, ...]:
        given, named = self.arguments
        return self.form.comparison.run(self.form.kernels, *given, **named)

    def take(self, sample: Sample) -> None:
        """Copy the arguments for another sample of the same shape."""
        given, named = self.form.on(sample, self.device)
        mine = (*self.arguments[0], *self.arguments[1].values())
        for old, new in zip(mine, (*given, *named.values()), strict=True):
            if isinstance(old, Tensor):
                old.copy_(new)


def _same(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
