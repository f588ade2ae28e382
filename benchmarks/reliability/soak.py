"""Tracks a million steps and watches memory, the log and open files."""

from __future__ import annotations

import functools
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ncfast.benchmarks.reliability.processes import must
from ncfast.tracking import Tracker

_BATCHES = 8


def soak(steps: int, folder: Path) -> dict[str, Any]:
    """Track ``steps`` steps in a process of its own.

    Returns:
        The measurements over time, and the number of records that are missing or wrong.
    """
    found: dict[str, Any] = must(functools.partial(_run, steps, folder / "log.jsonl"), 3000)
    return found


def _run(steps: int, path: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10))
    labels = torch.arange(64) % 10
    with torch.no_grad():
        inputs = [torch.randn(64, 16) for _ in range(_BATCHES)]
        points = []
        start, cpu = time.monotonic(), time.process_time()
        with Tracker(model, num_classes=10, sinks=[path], log_cost=False) as tracker:
            for step in range(steps):
                model(inputs[step % _BATCHES])
                tracker.step(labels=labels)
                if (step + 1) % max(1, steps // 20) == 0:
                    points.append(_point(step + 1, path))
    seconds = {"wall": time.monotonic() - start, "cpu": time.process_time() - cpu}
    size = path.stat().st_size
    wrong = _wrong(path, steps)
    path.unlink()
    return {"steps": steps, "bytes": size, "seconds": seconds, "points": points, **wrong}


def _point(step: int, path: Path) -> dict[str, float]:
    rollup = Path("/proc/self/smaps_rollup").read_text().split("\n")
    resident = next(int(line.split()[1]) for line in rollup if line.startswith("Rss:"))  # kB
    return {
        "step": step,
        "resident_mib": resident / 2**10,
        "log_mib": path.stat().st_size / 2**20,
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


def _wrong(path: Path, steps: int) -> dict[str, int]:
    """Records that are missing, and those that differ from the first one of the same batch."""
    first: dict[int, dict[str, float]] = {}
    missing, differ, step = 0, 0, 0
    with path.open() as lines:
        for line in lines:
            record = json.loads(line)
            if "step" not in record:
                continue
            missing += record.pop("step") != step + 1
            differ += first.setdefault(step % _BATCHES, record) != record
            step += 1
    return {"missing": missing + steps - step, "differ": differ}
