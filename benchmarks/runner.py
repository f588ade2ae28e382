"""Measures one operation: first the accuracy of every contestant, then the times.

The result of every contestant is compared with float64 before it is timed, in the same run. A
contestant whose error is over its budget is timed, too, but it takes part in no ratio.
"""

from __future__ import annotations

import datetime
import math
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ncfast.benchmarks import environment
from ncfast.benchmarks.memory import Peak
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation
from ncfast.benchmarks.timing import Rounds, measure

MOST_COPIES, MOST_BYTES = 64, 1 << 30
_FAILURES = (RuntimeError, ValueError, ImportError, MemoryError)


@dataclass(frozen=True)
class Conditions:
    """Device, time and limits of a run.

    Attributes:
        device: device of the inputs.
        seconds: time of the rounds of one case.
        cache_bytes: size of the last level of cache.
        read: measured bytes per second of a plain read on this device, or None.
        gemm: measured float32 operations per second of a matrix product, or None.
    """

    device: torch.device
    seconds: float
    cache_bytes: int
    read: float | None = None
    gemm: float | None = None


@dataclass
class _Entry:
    """A contestant that ran: its calls, its error, and what its first call took and gave."""

    contestant: Contestant
    calls: list[Call]
    error: float
    seconds: float
    peak: int | None
    ok: bool
    values: dict[str, float | None]


def run(
    operation: Operation, quick: bool, conditions: Conditions, numbers: Sequence[int] = ()
) -> Iterator[dict[str, Any]]:
    """The entry of each case, or of those ``numbers``; see `ncfast.benchmarks.results_file`."""
    for number, case in enumerate(operation.cases(quick)):
        if not numbers or number in numbers:
            yield run_case(operation, case, conditions)


def run_case(operation: Operation, case: Case, conditions: Conditions) -> dict[str, Any]:
    """Check, then time, all contestants of one case."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()  # each case compiles for its shapes, whose number is limited
    copies, cold = _copies(operation, case, conditions)
    load = environment.load()
    truth = operation.truth(copies[0])
    entries, absent = [], []
    for contestant in operation.contestants:
        reason = contestant.available(case)
        found = reason or _try(operation, case, contestant, copies, truth)
        if isinstance(found, str):
            absent.append(_describe(contestant, case) | {"reason": found})
        else:
            entries.append(found)
    # The base of the ratios comes first, because it takes part in every round.
    entries.sort(key=lambda entry: not (entry.ok and entry.contestant.kind == "ncfast"))
    rounds = measure(
        {entry.contestant.name: entry.calls for entry in entries},
        {entry.contestant.name: entry.seconds for entry in entries},
        conditions.device,
        conditions.seconds,
    )
    return {
        "case": dict(case.sizes) | {"caches": "cold" if cold else "warm"},
        "bytes": case.bytes,
        "flops": case.flops,
        "day": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "load": {"before": load, "after": environment.load()},
        **({"truth": _values(operation, truth)} if operation.values else {}),
        "results": _results(entries, rounds, case, conditions if cold else None) + absent,
    }


def _copies(operation: Operation, case: Case, conditions: Conditions) -> tuple[list[Inputs], bool]:
    """Copies that exceed the cache together, or one copy; and whether caches are cold."""
    wanted = 1 + math.ceil(2 * conditions.cache_bytes / max(case.bytes, 1))
    cold = conditions.device.type == "cuda" or wanted <= MOST_COPIES
    count = max(2, min(wanted, MOST_BYTES // max(case.bytes, 1))) if cold else 1
    if conditions.device.type == "cuda":
        count = 1  # the timer flushes the cache
    return [operation.make(case, seed, conditions.device) for seed in range(count)], cold


def _try(
    operation: Operation, case: Case, contestant: Contestant, copies: Sequence[Inputs], truth: Any
) -> _Entry | str:
    """The entry of a contestant, or the reason of its failure."""
    try:
        calls = [contestant.prepare(inputs) for inputs in copies]
        with Peak() as peak:
            start = time.perf_counter()
            output = calls[0]()
            seconds = time.perf_counter() - start
        error = float(operation.error(output, truth))
    except _FAILURES as failure:
        return f"{type(failure).__name__}: {str(failure).splitlines()[0] if str(failure) else ''}"
    ok = bool(error <= contestant.allowed(case))
    values = _values(operation, output)
    return _Entry(contestant, calls, error, seconds, peak.bytes, ok, values)


def _values(operation: Operation, output: Any) -> dict[str, float | None]:
    """The numbers to keep of an output; None, which JSON has, in place of NaN and infinity."""
    found = operation.values(output) if operation.values else {}
    return {n: float(v) if math.isfinite(v) else None for n, v in found.items()}


def _describe(contestant: Contestant, case: Case) -> dict[str, Any]:
    return {
        "contestant": contestant.name,
        "kind": contestant.kind,
        "backend": contestant.backend,
        "budget": contestant.allowed(case),
    }


def _results(
    entries: Sequence[_Entry],
    rounds: Mapping[str, Rounds],
    case: Case,
    conditions: Conditions | None,
) -> list[dict[str, Any]]:
    baseline = next(
        (rounds[e.contestant.name] for e in entries if e.ok and e.contestant.kind == "ncfast"), None
    )
    found = []
    for entry in entries:
        mine = rounds[entry.contestant.name]
        median = statistics.median(mine.values())
        result = _describe(entry.contestant, case) | {
            # JSON has no NaN, so an error of NaN is stored as null.
            "error": entry.error if math.isfinite(entry.error) else None,
            "ok": entry.ok,
            **({"values": entry.values} if entry.values else {}),
            "peak_bytes": entry.peak,
            "rounds": len(mine),
            "median_s": median,
            "quartiles_s": quartiles(list(mine.values())),
            "ratio_to_ncfast": None,
            "share_of_ceiling": share_of_ceiling(case, median, conditions),
        }
        if entry.ok and baseline:
            ratios = [mine[number] / baseline[number] for number in mine]
            low, high = quartiles(ratios)
            result["ratio_to_ncfast"] = {
                "median": statistics.median(ratios),
                "quartiles": [low, high],
            }
        found.append(result)
    return found


def quartiles(values: Sequence[float]) -> list[float]:
    """The first and the third quartile; for a single value both are that value."""
    if len(values) == 1:
        return [values[0], values[0]]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]


def share_of_ceiling(case: Case, seconds: float, conditions: Conditions | None) -> float | None:
    """Least time by the roofline over the measured time; None if caches are warm."""
    if conditions is None or conditions.read is None:
        return None
    least = case.bytes / conditions.read
    if conditions.gemm is not None:
        least = max(least, case.flops / conditions.gemm)
    return least / seconds
