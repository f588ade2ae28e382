"""Compiles the kernels of the self-check, in a process for each core.

    python benchmarks/studies/gpu_compile.py
    python benchmarks/studies/gpu_compile.py --rehearse     on a CPU: starts the processes alone

A self-check on a machine that has never run one spends most of its time on compilation, on one
core. This makes the same checks side by side and drops their verdicts. Triton keeps what it has
compiled on the disk, and the self-check finds it there.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch

from ncfast.ops._verdicts import Subject
from ncfast.self_check import worker

MEMORY_SHARE = 1 / 40  # of the device, for a process
MOST = 16  # processes: each holds a context on the device


def compiled(subject: Subject, device: str) -> tuple[Subject, float]:
    """Make one check; a verdict that is not good is told by the self-check itself."""
    begin = time.perf_counter()
    if device != "cpu":
        torch.cuda.set_per_process_memory_fraction(MEMORY_SHARE)
        worker.examine(subject, torch.device(device), alone=False)
    return subject, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true")
    device = "cpu" if parser.parse_args().rehearse else "cuda:0"
    subjects = worker.subjects()
    spawned = multiprocessing.get_context("spawn")
    processes = min(MOST, os.cpu_count() or 1, len(subjects))
    begin = time.perf_counter()
    with ProcessPoolExecutor(processes, spawned) as pool:
        try:
            for subject, seconds in pool.map(compiled, subjects, [device] * len(subjects)):
                print(f"{seconds:6.0f} s  {', '.join(filter(None, subject))}", flush=True)
        except BrokenProcessPool:
            print("a process was lost: the self-check will say in which kernel", flush=True)
    print(f"{time.perf_counter() - begin:.0f} s with {processes} processes")


if __name__ == "__main__":
    main()
