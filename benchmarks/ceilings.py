"""Measures the limits of the machine in the same run: reads, copies and matrix products."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ncfast.benchmarks.registry import Call

ROUNDS, SECONDS = 7, 0.3  # least number and duration of the rounds
SMALLEST = 256 << 20  # least number of bytes to read; four times the cache if that is more
GEMM_SIZE = {"cpu": 1024, "cuda": 8192}
GATHERED_ROW = 512  # float32 entries


def measure(device: torch.device, threads: int, cache_bytes: int) -> dict[str, Any]:
    """Bytes and float32 operations per second, each the best of several rounds.

    Returns:
        ``threads``, the number in use, and under ``by_threads`` (on CUDA: under
        ``cuda``) ``read_bytes_per_s``, ``copy_bytes_per_s`` (read and written bytes),
        ``gather_bytes_per_s`` (rows of 2 KiB in random order, read and written) and
        ``gemm_flops_per_s`` (float32).
    """
    if device.type == "cuda":
        return {"threads": threads, "cuda": _all(device, 4 << 30)}
    size = max(SMALLEST, 4 * cache_bytes)
    found = {}
    for count in _thread_counts(threads):
        with _threads(count):
            found[str(count)] = _all(device, size)
    return {"threads": threads, "by_threads": found}


def current(ceilings: dict[str, Any]) -> dict[str, float]:
    """The limits that shares refer to: the best for any number of threads up to that in use."""
    if "cuda" in ceilings:
        return ceilings["cuda"]
    usable = [f for n, f in ceilings["by_threads"].items() if int(n) <= ceilings["threads"]]
    return {name: max(figures[name] for figures in usable) for name in usable[0]}


def _thread_counts(threads: int) -> list[int]:
    """1, 2, 4, ... up to the number of cores, and the number of threads in use."""
    cores = os.cpu_count() or 1
    return sorted({threads, *(1 << i for i in range(cores.bit_length()) if 1 << i <= cores)})


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _all(device: torch.device, size: int) -> dict[str, float]:
    source = torch.ones(size // 4 // GATHERED_ROW, GATHERED_ROW, device=device)
    target = torch.empty_like(source)
    order = torch.randperm(len(source), device=device)
    best = _clock(device)
    read = size / best(lambda: source.sum())
    copy = 2 * size / best(lambda: target.copy_(source))
    gather = 2 * size / best(lambda: torch.index_select(source, 0, order, out=target))
    edge = GEMM_SIZE[device.type]
    left, right = (torch.randn(edge, edge, device=device) for _ in range(2))
    gemm = 2 * edge**3 / best(lambda: left @ right)
    return {
        "read_bytes_per_s": read,
        "copy_bytes_per_s": copy,
        "gather_bytes_per_s": gather,
        "gemm_flops_per_s": gemm,
    }


def _clock(device: torch.device) -> Callable[[Call], float]:
    def best(call: Call) -> float:
        call()
        spans: list[float] = []
        while len(spans) < ROUNDS or sum(spans) < SECONDS:
            _wait(device)
            start = time.perf_counter()
            call()
            _wait(device)
            spans.append(time.perf_counter() - start)
        return min(spans)

    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
