"""Runs ``ncfast bench``: measures operations, prints each result, and updates the file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ncfast.benchmarks import ceilings, environment, results_file, table
from ncfast.benchmarks.compare import SLOWER_OR_WRONG, compare
from ncfast.benchmarks.config import BenchConfig
from ncfast.benchmarks.operations import OPERATIONS
from ncfast.benchmarks.registry import Operation
from ncfast.benchmarks.runner import Conditions, run

SECONDS, QUICK_SECONDS = 10.0, 1.5


def bench(config: BenchConfig) -> Path | None:
    """Measure, print and write the results; returns the path of the file, or None without one.

    Raises:
        ValueError: an operation is unknown.
    """
    chosen = choose(config.ops)
    device = _device(config.device)
    threads = config.threads or os.cpu_count() or 1
    start = time.perf_counter()
    with _limited(threads):
        about = environment.describe(device, threads)
        limits = ceilings.measure(device, threads, about["last_cache_bytes"])
        best = ceilings.current(limits)
        print(
            f"{about['processor']}, {threads} threads: reads {best['read_bytes_per_s'] / 1e9:.1f} "
            f"GB/s, multiplies {best['gemm_flops_per_s'] / 1e9:,.0f} GFLOP/s in float32",
            flush=True,
        )
        conditions = Conditions(
            device,
            config.seconds or (QUICK_SECONDS if config.quick else SECONDS),
            about["last_cache_bytes"],
            best["read_bytes_per_s"],
            best["gemm_flops_per_s"],
        )
        report = results_file.new(about, limits)
        for operation in chosen:
            entries = report["operations"][operation.name] = []
            report["commands"][operation.name] = config.command
            for entry in run(operation, config.quick, conditions, config.cases):
                entries.append(entry)
                print("\n" + table.header(operation.name, entry))
                print("\n".join(table.lines(entry)), flush=True)
            environment.finish(about)
            if config.out is None:
                continue
            single = bool(config.cases)
            dropped = results_file.merge_into(config.out, report, single_cases=single)
            if dropped:
                print(f"Dropped, of another environment: {', '.join(dropped)}")
    kept = f"Results: {config.out}" if config.out else "Not kept: add --out FILE.json"
    print(f"\n{time.perf_counter() - start:.0f} s. {kept}")
    return config.out


def compare_files(old: Path, new: Path) -> bool:
    """Print the changes between two runs; returns whether the new one is slower or less accurate.

    Raises:
        ValueError: a file is none of `ncfast bench`, or the two have no case in common.
    """
    changes = compare(results_file.load(old), results_file.load(new))
    if not changes:
        raise ValueError(f"Expected {old} and {new} to have a case in common but they have none.")
    bad = [change for change in changes if change.verdict in SLOWER_OR_WRONG]
    for change in sorted(changes, key=lambda each: each.factor):
        print(change)
    print(f"{len(bad)} of {len(changes)} became slower or wrong.")
    return bool(bad)


def choose(names: Sequence[str]) -> list[Operation]:
    """The operations of these names. Without names, all except those with `when_named`.

    Raises:
        ValueError: a name is unknown.
    """
    unknown = [name for name in names if name not in OPERATIONS]
    if unknown:
        raise ValueError(
            f"Expected `ops` to name operations but got {unknown[0]!r}. "
            f"Known: {', '.join(OPERATIONS)}."
        )
    if names:
        return [OPERATIONS[name] for name in names]
    return [operation for operation in OPERATIONS.values() if not operation.when_named]


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@contextmanager
def _limited(threads: int) -> Iterator[None]:
    """Set the number of threads of torch and, if threadpoolctl is installed, of other libraries."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
    else:
        with threadpool_limits(threads):
            yield
    torch.set_num_threads(before)
