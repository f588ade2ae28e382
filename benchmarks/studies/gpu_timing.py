"""Timing on a GPU, and the inputs for it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

FLUSH_BYTES = 256 << 20  # several times the largest L2
MOST_SECONDS = 2.0  # of the repeats of one call; a slow contestant is repeated less often


class Bench:
    """The device, and its timing."""

    def __init__(self, rehearse: bool) -> None:
        self.rehearse = rehearse
        self.device = torch.device("cpu" if rehearse else "cuda")
        self.flush = torch.empty(
            16 if rehearse else FLUSH_BYTES, dtype=torch.int8, device=self.device
        )

    def milliseconds(self, call: Callable[[], object], repeats: int = 21) -> float:
        """Median device time of calls with a cold L2."""
        if self.rehearse:
            call()
            return float("nan")
        call()  # compiles
        torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize()
        once = time.perf_counter() - begin
        repeats = max(3, min(repeats, int(MOST_SECONDS / max(once, 1e-9))))
        spans = []
        for _ in range(repeats):
            self.flush.zero_()
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            stop.record()
            spans.append((start, stop))
        torch.cuda.synchronize()
        return statistics.median(start.elapsed_time(stop) for start, stop in spans)

    def python_milliseconds(self, call: Callable[[], object], calls: int = 300) -> float:
        """Wall time per call of many calls, with the queue of the device."""
        if self.rehearse:
            return float("nan")
        call()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - begin) / calls * 1e3

    def graph_milliseconds(self, call: Callable[[], object]) -> float:
        """Device time per replay of 100 in a row, with inputs in the L2."""
        if self.rehearse:
            return float("nan")
        call()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return self.milliseconds(lambda: [graph.replay() for _ in range(100)], 11) / 100


def features(
    bench: Bench, count: int, dim: int, k: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(bench.device).manual_seed(count + dim + k)
    feats = torch.empty(count, dim, dtype=dtype, device=bench.device)
    for block in feats.split(1 << 16):
        block.normal_(1.0, 1.0, generator=generator)
    return feats, torch.randint(0, k, (count,), generator=generator, device=bench.device)


def must_not_change(bench: Bench, name: str, call: Callable[[], tuple[Tensor, ...]]) -> None:
    """Fail if 20 runs differ in a bit, or one of them synchronises with the host."""
    first = call()
    if not bench.rehearse:
        torch.cuda.set_sync_debug_mode("error")
    try:
        runs = [call() for _ in range(2 if bench.rehearse else 20)]
    finally:
        if not bench.rehearse:
            torch.cuda.set_sync_debug_mode("default")
    for run in runs:
        if not all(torch.equal(a, b) for a, b in zip(first, run, strict=True)):
            raise SystemExit(f"not reproducible: {name}")
