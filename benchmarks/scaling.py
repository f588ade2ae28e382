"""Measures the cost of class moments and RNC1 by N, D, K and number of threads.

    python -m ncfast.benchmarks.scaling --axes N D K --out scaling.json

Along an axis one size grows and the others are constant. Every point is checked against float64 and
timed together with a plain read of the same features, in the same rounds. The exponent of an axis
is the slope of a line through the logarithms of its larger half, where the constant cost of a call
is negligible. Axes and thread counts can be measured in several calls, because the file keeps the
others.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import ncfast
from ncfast.benchmarks import availability, ceilings, environment, results_file
from ncfast.benchmarks.operations import class_moments
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation
from ncfast.benchmarks.runner import Conditions, run_case
from ncfast.benchmarks.samples import error_of_found

SIZES: dict[str, list[dict[str, int]]] = {
    "N": [
        {"N": n, "D": 512, "K": 100}
        for n in (1000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000)
    ],
    "D": [{"N": 20_000, "D": d, "K": 100} for d in (16, 64, 256, 512, 1024, 2048, 4096, 8192)],
    "K": [
        {"N": 200_000, "D": 256, "K": k}
        for k in (2, 10, 100, 1000, 3000, 10_000, 30_000, 100_000, 200_000)
    ],
}
QUICK: dict[str, list[dict[str, int]]] = {
    axis: [points[0] | {axis: value} for value in values]
    for axis, points, values in (
        ("N", SIZES["N"], (300, 1000, 3000, 10_000)),
        ("D", [{"N": 2000, "D": 16, "K": 10}], (16, 32, 64, 128)),
        ("K", [{"N": 2000, "D": 32, "K": 2}], (2, 10, 100, 1000)),
    )
}
DRAWN_ROWS = 200_000
CLASS_MOMENTS, RNC1, READ = "class_moments", "rnc1", class_moments.READ


def truth(inputs: Inputs) -> dict[str, torch.Tensor]:
    """The reference of every output, by name."""
    found = class_moments.truth_of_read(inputs)
    count, norm = len(inputs["labels"]), found["norm_max"]
    found["rnc1"] = found["within_ss"].sum() / count / norm.square()
    return found


def rnc1(inputs: Inputs, backend: str) -> Call:
    feats, labels, k = inputs["feats"], inputs["labels"], inputs["k"]
    return lambda: {"rnc1": ncfast.rnc1(feats, labels, num_classes=k, backend=backend)}


def _make(case: Case, seed: int, device: torch.device) -> Inputs:
    """Features and labels; beyond `DRAWN_ROWS` the first rows repeat, because drawing takes long.

    The offset keeps the sum of all features away from zero.
    """
    count = int(case.sizes["N"])
    part = dict(case.sizes) | {"N": min(count, DRAWN_ROWS), "offset": 1.0}
    inputs = class_moments.classes(Case(part, case.bytes, case.flops), seed, device)
    times = -(-count // DRAWN_ROWS)
    if times > 1:
        inputs["feats"] = inputs["feats"].repeat(times, 1)[:count]
        inputs["labels"] = inputs["labels"].repeat(times)[:count]
    return inputs


OPERATION = Operation(
    "scaling",
    lambda quick: [],
    _make,
    truth,
    error_of_found,
    [
        *(
            Contestant(
                name, "ncfast", partial(make, backend=backend), availability.backend(backend)
            )
            for backend in ("cpu",)
            for name, make in ((CLASS_MOMENTS, class_moments.ours), (RNC1, rnc1))
        ),
        Contestant(READ, "baseline", class_moments.read),
    ],
)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Slope of the line through the logarithms of the larger half, of at least three points.

    Example:
        >>> from ncfast.benchmarks.scaling import slope
        >>> round(slope([(1.0, 5.0), (10.0, 7.0), (100.0, 70.0), (1000.0, 700.0)]), 6)
        1.0
    """
    kept = sorted(points)[-max(3, math.ceil(len(points) / 2)) :]
    x, y = ([math.log(point[i]) for point in kept] for i in range(2))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    top = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return top / sum((a - mean_x) ** 2 for a in x)


def seconds_of(entry: dict[str, Any], contestant: str) -> float | None:
    """The median of one contestant at one point; None if it did not run or was wrong."""
    for result in results_file.ran(entry):
        if result["contestant"] == contestant and result["ok"]:
            return float(result["median_s"])
    return None


def exponents(axis: str, entries: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The slope of each contestant's time along the axis."""
    found = {}
    for name in (CLASS_MOMENTS, RNC1, READ):
        timed = [(float(e["case"][axis]), seconds_of(e, name)) for e in entries]
        points = [(size, seconds) for size, seconds in timed if seconds is not None]
        if len(points) >= 3:
            found[name] = slope(points)
    return found


def measure(axis: str, threads: int, quick: bool, seconds: float) -> dict[str, Any]:
    """All points of one axis with a number of threads, and the exponents."""
    cache = environment.last_cache_bytes()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    conditions = Conditions(torch.device("cpu"), seconds, cache)
    entries = []
    for sizes in (QUICK if quick else SIZES)[axis]:
        case = class_moments.describe({**sizes, "dtype": "float32"}, quick)
        entries.append(run_case(OPERATION, case, conditions))
        print(axis, threads, sizes, seconds_of(entries[-1], CLASS_MOMENTS), flush=True)
    torch.set_num_threads(before)
    return {
        "axis": axis,
        "threads": threads,
        "exponents": exponents(axis, entries),
        "points": entries,
    }


def stored(path: Path | None, about: dict[str, Any]) -> dict[str, Any]:
    """The stored report, or an empty one if there is none of this environment."""
    if path is not None and path.exists():
        report = results_file.load(path)
        if environment.same(report["environment"], about):
            return report
    return {"schema": results_file.SCHEMA, "environment": about, "ceilings": {}, "scaling": []}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the chosen axes and merge them into the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--axes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument(
        "--threads", nargs="+", type=int, default=None, help="None: 1, 2, ... cores"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing a point")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(argv)
    cores = os.cpu_count() or 1
    about = environment.describe(torch.device("cpu"), cores)
    report = stored(given.out, about)
    report["ceilings"] = ceilings.measure(torch.device("cpu"), cores, about["last_cache_bytes"])
    counts = given.threads or [int(count) for count in report["ceilings"]["by_threads"]]
    for threads in counts:
        for axis in given.axes:
            found = measure(axis, threads, given.quick, given.seconds)
            place = (found["axis"], found["threads"])
            others = [s for s in report["scaling"] if (s["axis"], s["threads"]) != place]
            report["scaling"] = sorted(
                [*others, found], key=lambda series: (series["axis"], series["threads"])
            )
    environment.finish(about)
    report["environment"] = about
    if given.out:
        results_file.write(given.out, report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
