"""Compares the Triton backend with a plain read of the same matrix and with torch, on a GPU.

    python benchmarks/studies/gpu_moments.py [--quick] [--seconds 500]
    TRITON_INTERPRET=1 python benchmarks/studies/gpu_moments.py --rehearse     on a CPU, no times

A case is timed only after its result passed against float64 (1e-6 for the sum of squares), gave
the same bits in 20 runs and did not synchronise. Times are medians of CUDA events with a cold L2;
"python" is wall time per call over many calls. Predictions are bytes over the read bandwidth
measured in the same run. Second reads and neighbours are in gpu_second_read.py. Writes
<device>-kernels.json and .md in benchmarks/results, or $NCFAST_RESULTS, after every case. After
--seconds no further case is begun, and the file says how many were left out.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpu_second_read import Measure, neighbour_cases, second_read_cases
from gpu_timing import Bench, features, must_not_change
from torch import Tensor

import ncfast
from ncfast.benchmarks import results_file
from ncfast.benchmarks.plain import moments as plain
from ncfast.benchmarks.report import text
from ncfast.ops import moments as passes
from ncfast.ops.grouping import build

TINY = [(1000, 200, 10), (1000, 512, 100), (4096, 256, 10)]
QUICK = [(1_000_000, 512, 10), (100_000, 4096, 1000)]
GRID = [(n, d, k) for n in (100_000, 1_000_000) for d in (128, 512, 4096) for k in (10, 1000)]
GRID += [(1_000_000, 200, 10), (1_000_000, 512, 32_000), (1_000_000, 512, 200_000)]
GRID += [(10_000, 512, 10), (4_000_000, 4096, 1000)]
GRID = QUICK + [size for size in GRID if size not in QUICK]  # the first may be the last
REHEARSAL = [(5000, 24, 3)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TABLES = ("cases", "tiny", "second_read", "neighbours")
BOUND = 1e-6
ONE_HOT_BYTES = 4 << 30
WHOLE, BATCH = 1 << 62, 512
_BLOCK = 1 << 24  # number of entries that are converted to float64 at once


def truth(feats: Tensor, labels: Tensor, k: int) -> float:
    """Within-class sum of squares by two passes in float64 over the stored input."""
    rows = max(1, _BLOCK // feats.shape[1])
    return float(plain.two_pass(feats, labels, k, rows, torch.float64)[2].sum())


@functools.cache
def _compiled() -> Callable[..., plain.Result]:
    return torch.compile(plain.compilable, dynamic=True)  # once for all sizes: it takes seconds


def contention(feats: Tensor, labels: Tensor, k: int) -> Tensor:
    """index_add_ alone, for the cost of atomics with few classes."""
    return feats.new_zeros(k, feats.shape[1]).index_add_(0, labels, feats)


def _plainly(function: plain.Reference, batch: int = WHOLE) -> Callable[..., plain.Result]:
    return functools.partial(function, batch=batch, dtype=torch.float32)


REFERENCES: dict[str, Callable[[Tensor, Tensor, int], object]] = {
    "authors": _plainly(plain.published),
    "authors_batched": _plainly(plain.published, BATCH),
    "two_pass": _plainly(plain.two_pass),
    "compiled_two_pass": lambda feats, labels, k: _compiled()(feats, labels, k),
    "one_hot": _plainly(plain.one_hot),
    "reference": passes.reference,
    "index_add": contention,
}


def verify(bench: Bench, feats: Tensor, labels: Tensor, k: int) -> float:
    """Error of the within-class sum of squares; fails on different bits or a synchronisation."""
    first = passes.compute(feats, labels, k)
    error = abs(float(first.within_ss.sum() / truth(feats, labels, k) - 1))
    if error > BOUND:
        raise SystemExit(f"wrong: error {error:.1e} at {tuple(feats.shape)}, {k}, {feats.dtype}")
    must_not_change(
        bench, f"{tuple(feats.shape)} {k} {feats.dtype}", lambda: passes.compute(feats, labels, k)
    )
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
    row["planned_ms"] = bench.milliseconds(lambda: passes.planned(feats, plan))
    row["plan_ms"] = bench.milliseconds(lambda: build(labels, k))
    row["call_ms"] = bench.milliseconds(lambda: passes.compute(feats, labels, k))
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
    row["graph_ms"] = bench.graph_milliseconds(lambda: passes.compute(feats, labels, k))
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
        "triton": ncfast.backends()["triton"].reason,
        "ncfast": ncfast.__version__,
        query: shown.splitlines(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return text.table(keys, [[_shown(row.get(key)) for key in keys] for row in rows]) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def cases(bench: Bench, read_gb_s: float, *, quick: bool) -> Iterator[tuple[str, Measure]]:
    """The tables in which the rows belong, and what measures them; the shortest first."""
    for size in [(200, 20, 3)] if bench.rehearse else TINY:
        yield "tiny", lambda size=size: [tiny_case(bench, *size)]
    grid = REHEARSAL if bench.rehearse else QUICK if quick else GRID
    moments = [
        ("cases", lambda size=size, name=name: [case(bench, *size, name, read_gb_s)])
        for size in grid
        for name in DTYPES
    ]
    most = 2 * len(DTYPES)
    yield from moments[:most]
    for measure in neighbour_cases(bench, quick=quick):
        yield "neighbours", measure
    for measure in second_read_cases(bench, read_gb_s, quick=quick):
        yield "second_read", measure
    yield from moments[most:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    arguments = parser.parse_args()
    begin = time.perf_counter()
    bench = Bench(arguments.rehearse)
    result: dict[str, Any] = {"versions": versions(bench), "ceilings": ceilings(bench)}
    result |= {name: [] for name in TABLES}
    planned = [*cases(bench, result["ceilings"]["read_gb_s"], quick=arguments.quick)]
    for number, (name, measure) in enumerate(planned):
        late = time.perf_counter() - begin > arguments.seconds
        result["left_out"] = len(planned) - number if late else 0
        if late:
            print(f"{result['left_out']} of {len(planned)} cases were left out")
            break
        rows = measure()
        result[name] += rows
        print(table(rows), flush=True)
        torch.cuda.empty_cache()
        write(bench, result)
    write(bench, result)


def write(bench: Bench, result: dict[str, Any]) -> None:
    if bench.rehearse:
        return
    name = torch.cuda.get_device_name().lower().replace(" ", "-")
    target = results_file.folder() / f"{name}-kernels.json"
    results_file.write(target, result)
    target.with_suffix(".md").write_text("\n".join(table(result[key]) for key in TABLES))


if __name__ == "__main__":
    main()
