"""The Triton backend against a plain read of the same matrix and against torch, on a GPU.

    python benchmarks/gpu_moments.py [--quick]
    TRITON_INTERPRET=1 python benchmarks/gpu_moments.py --rehearse     on a CPU: runs, times nothing

A case is timed only after its result passed 1e-6 against a float64 two-pass, gave the same bits
in 20 runs and did not synchronise. Times are medians of CUDA events with a cold L2; "python" is
wall time per call, many calls in a row. Predictions are bytes over the read bandwidth measured
in the same run. Writes benchmarks/results/<device>.json and .md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_references import REFERENCES, truth
from torch import Tensor

import ncfast
from ncfast.backends import triton
from ncfast.backends.plan import build

RESULTS = Path(__file__).parent / "results"
GRID = [(n, d, k) for n in (100_000, 1_000_000) for d in (128, 512, 4096) for k in (10, 1000)]
GRID += [(1_000_000, 200, 10), (1_000_000, 512, 32_000), (1_000_000, 512, 200_000)]
GRID += [(10_000, 512, 10), (4_000_000, 4096, 1000)]
TINY = [(1000, 200, 10), (1000, 512, 100), (4096, 256, 10)]
QUICK = [(1_000_000, 512, 10), (100_000, 4096, 1000)]
REHEARSAL = [(5000, 24, 3)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BOUND = 1e-6
FLUSH_BYTES = 256 << 20  # several times the largest L2
ONE_HOT_BYTES = 4 << 30


class Bench:
    """Where things run, and how they are timed there."""

    def __init__(self, rehearse: bool) -> None:
        self.rehearse = rehearse
        self.device = torch.device("cpu" if rehearse else "cuda")
        self.flush = torch.empty(
            16 if rehearse else FLUSH_BYTES, dtype=torch.int8, device=self.device
        )

    def milliseconds(self, call: Callable[[], object], repeats: int = 21) -> float:
        """Median of device time, every call with a cold L2."""
        if self.rehearse:
            call()
            return float("nan")
        for _ in range(3):
            call()
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
        """Wall time of one call among many, the queue of the device included."""
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
        """Device time of a replay, from 100 of them in a row: what is read is in the L2."""
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


def verify(bench: Bench, feats: Tensor, labels: Tensor, k: int) -> float:
    """Error of the within-class sum of squares; fails on different bits or a synchronisation."""
    first = triton.compute(feats, labels, k)
    error = abs(float(first.within_ss.sum() / truth(feats, labels, k) - 1))
    if error > BOUND:
        raise SystemExit(f"wrong: error {error:.1e} at {tuple(feats.shape)}, {k}, {feats.dtype}")
    if not bench.rehearse:
        torch.cuda.set_sync_debug_mode("error")
    runs = [triton.compute(feats, labels, k) for _ in range(2 if bench.rehearse else 20)]
    if not bench.rehearse:
        torch.cuda.set_sync_debug_mode("default")
    for run in runs:
        if not all(torch.equal(a, b) for a, b in zip(first, run, strict=True)):
            raise SystemExit(f"not reproducible at {tuple(feats.shape)}, {k}, {feats.dtype}")
    return error


def ceilings(bench: Bench) -> dict[str, Any]:
    """Read bandwidth in GB/s: a sum, and a gather of rows in random order."""
    rows = 1000 if bench.rehearse else 1 << 20
    found: dict[str, Any] = {}
    matrix = torch.ones(rows, 512 if bench.rehearse else 4096, device=bench.device)
    nbytes = matrix.numel() * 4
    found["read_gb_s"] = nbytes / bench.milliseconds(lambda: matrix.sum()) / 1e6
    order = torch.randperm(rows, device=bench.device)
    for width in (64, 128, 512, 4096):
        view = matrix[:, :width]
        taken = bench.milliseconds(lambda view=view: view.index_select(0, order))
        # read and written: compare with twice the bytes
        found[f"gather_{4 * width}_bytes_gb_s"] = 2 * rows * view.shape[1] * 4 / taken / 1e6
    return found


def case(bench: Bench, count: int, dim: int, k: int, name: str, read_gb_s: float) -> dict[str, Any]:
    feats, labels = features(bench, count, dim, k, DTYPES[name])
    row: dict[str, Any] = {"rows": count, "dim": dim, "classes": k, "dtype": name}
    row["error"] = verify(bench, feats, labels, k)
    plan = build(labels, k)
    nbytes = feats.numel() * feats.element_size() + 4 * count + 8 * k * dim
    row["predicted_ms"] = nbytes / read_gb_s / 1e6
    row["planned_ms"] = bench.milliseconds(lambda: triton.planned(feats, plan))
    row["plan_ms"] = bench.milliseconds(lambda: build(labels, k))
    row["call_ms"] = bench.milliseconds(lambda: triton.compute(feats, labels, k))
    row["share_of_read_planned"] = row["predicted_ms"] / row["planned_ms"]
    row["share_of_read_call"] = row["predicted_ms"] / row["call_ms"]
    for label, reference in REFERENCES.items():
        if label == "one_hot" and count * k * 4 > ONE_HOT_BYTES:
            continue
        try:
            row[f"{label}_ms"] = bench.milliseconds(lambda f=reference: f(feats, labels, k), 7)
        except torch.OutOfMemoryError:
            row[f"{label}_ms"] = None
    return row


def tiny_case(bench: Bench, count: int, dim: int, k: int) -> dict[str, Any]:
    feats, labels = features(bench, count, dim, k, torch.float32)
    row: dict[str, Any] = {"rows": count, "dim": dim, "classes": k, "dtype": "float32"}
    row["error"] = verify(bench, feats, labels, k)
    row["graph_ms"] = bench.graph_milliseconds(lambda: triton.compute(feats, labels, k))
    row["python_ms"] = bench.python_milliseconds(
        lambda: ncfast.class_moments(feats, labels, num_classes=k, backend="triton")
    )
    for label, reference in REFERENCES.items():
        row[f"{label}_python_ms"] = bench.python_milliseconds(
            lambda f=reference: f(feats, labels, k)
        )
    return row


def versions(bench: Bench) -> dict[str, Any]:
    if bench.rehearse:
        return {}
    query = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    shown = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.describe(),
        "ncfast": ncfast.__version__,
        query: shown.splitlines(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(keys) + " |", "|" + "--|" * len(keys)]
    for row in rows:
        values = (row.get(key) for key in keys)
        shown = (
            f"{v:.4g}" if isinstance(v, float) else "" if v is None else str(v) for v in values
        )
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    bench = Bench(arguments.rehearse)
    grid = REHEARSAL if arguments.rehearse else QUICK if arguments.quick else GRID
    result: dict[str, Any] = {"versions": versions(bench), "ceilings": ceilings(bench)}
    read = result["ceilings"]["read_gb_s"]
    result["cases"] = [case(bench, *size, name, read) for size in grid for name in DTYPES]
    tiny = [(200, 20, 3)] if arguments.rehearse else TINY
    result["tiny"] = [tiny_case(bench, *size) for size in tiny]
    print(table(result["cases"]), table(result["tiny"]), sep="\n")
    if not arguments.rehearse:
        name = torch.cuda.get_device_name().lower().replace(" ", "-")
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        (RESULTS / f"{name}.md").write_text(table(result["cases"]) + "\n" + table(result["tiny"]))


if __name__ == "__main__":
    main()
