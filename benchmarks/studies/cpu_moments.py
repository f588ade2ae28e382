"""The CPU backend against a plain read of the same matrix and against torch.

    python benchmarks/studies/cpu_moments.py [--quick | --part small grid:7 ...] [--rounds 7]

Every contender of a case runs once per round, in turn, so that what else the machine does hits
all of them; a ratio is the median over rounds of the ratio within a round, a time the minimum.
A case is timed only after its error against a float64 two-pass passed 1e-6. Writes
benchmarks/results/cpu.json and cpu.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import ncfast
from ncfast.backends import cpu
from ncfast.benchmarks import results_file
from ncfast.benchmarks.plain.moments import REFERENCES, STABLE, truth

RESULTS = results_file.folder()
LARGE = [(200_000, 512, k) for k in (10, 100, 1000)]
GRID = [
    (rows, dim, k)
    for rows, dim in [(100, 16), (1000, 200), (10_000, 64), (20_000, 512), (1_000_000, 16),
                      (1_000_000, 128)]
    for k in (2, 10, 100, 1000, 10_000)
]  # fmt: skip
GRID_BATCHES = (4096, 1 << 62)
OTHERS = (torch.bfloat16, torch.float16, torch.float64)
ONE_HOT_BYTES = 1 << 24
# torch's OpenMP threads spin for a while after their work, on the cores of whoever comes next
SETTLE_SECONDS = 0.02
READ_ROUNDS = 41


def features(rows: int, dim: int, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + dim + k)
    feats = torch.empty(rows, dim).normal_(1.0, 1.0, generator=generator).to(dtype)
    return feats, torch.randint(0, k, (rows,), generator=generator)


def contenders(
    feats: Tensor, labels: Tensor, k: int, batches: tuple[int, ...], references: bool
) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {
        "read": lambda: feats.sum(),
        "ncfast": lambda: cpu.class_moments(feats, labels, k),
    }
    for batch in batches if references else ():
        rows = min(batch, len(feats))
        for name, reference in REFERENCES.items():
            if name == "one_hot" and rows * k * 8 > ONE_HOT_BYTES:
                continue
            label = f"{name}/{'all' if batch >= len(feats) else batch}"
            found[label] = lambda f=reference, b=rows: f(feats, labels, k, b)
    return found


def timed(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    for call in calls.values():
        timed(call, 3)  # a first call loads code: it would make every later one a single cold one
    repeats = {name: min(200, 1 + int(2e-3 / timed(call, 1))) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(SETTLE_SECONDS)
            if repeats[name] > 1:
                timed(call, 3)  # the pause cooled caches and clock: a short call means a warm one
            times[name].append(timed(call, repeats[name]))
    return times


def measure(
    rows: int, dim: int, k: int, rounds: int, *, dtype: torch.dtype = torch.float32,
    batches: tuple[int, ...] = (512, 1 << 62), references: bool = True,
) -> dict[str, object]:  # fmt: skip
    feats, labels = features(rows, dim, k, dtype)
    exact = truth(feats, labels, k)
    got = cpu.class_moments(feats, labels, k).within_ss.sum()
    # with one row or none in every class both are exactly zero
    error = float(abs(got - exact) / exact.clamp(min=1e-300))
    if not error < 1e-6:
        raise SystemExit(f"{rows} x {dim}, K = {k}, {dtype}: relative error {error:.1e}")
    calls = contenders(feats, labels, k, batches, references)
    times = interleaved(calls, rounds)
    ours = times["ncfast"]
    best = {name: min(values) for name, values in times.items()}
    pair = interleaved({name: calls[name] for name in ("read", "ncfast")}, READ_ROUNDS)
    of_read = [o / r for o, r in zip(pair["ncfast"], pair["read"], strict=True)]
    best |= {name: min(best[name], *values) for name, values in pair.items()}
    ratio = {
        name: statistics.median(t / o for t, o in zip(values, ours, strict=True))
        for name, values in times.items()
        if name not in ("ncfast", "read")
    }
    size = feats.numel() * feats.element_size() + labels.numel() * labels.element_size()
    return {
        "rows": rows,
        "dim": dim,
        "classes": k,
        "dtype": str(dtype).removeprefix("torch."),
        "error": error,
        "bytes": size,
        "gb_per_s": size / best["ncfast"] / 1e9,
        "read_gb_per_s": feats.numel() * feats.element_size() / best["read"] / 1e9,
        "times_of_read": statistics.median(of_read),
        "times_of_read_quartile": statistics.quantiles(of_read, n=4)[0],
        "seconds": best,
        "speedup": ratio,
    }


def small_call(rounds: int) -> dict[str, float]:
    feats, labels = features(1000, 200, 10, torch.float32)
    empty = torch.library.custom_op(
        "ncfast_bench::empty", lambda x: x.new_empty(()), mutates_args=(),
        schema="(Tensor x) -> Tensor",
    )  # fmt: skip
    times = interleaved(
        {
            "empty_op": lambda: empty(feats),
            "rnc1": lambda: ncfast.rnc1(feats, labels, num_classes=10),
        },
        max(rounds, 21),
    )
    return {
        "empty_op_us": 1e6 * min(times["empty_op"]),
        "rnc1_us": 1e6 * min(times["rnc1"]),
        "median_difference_us": 1e6
        * statistics.median(
            r - e for r, e in zip(times["rnc1"], times["empty_op"], strict=True)
        ),
    }  # fmt: skip


def fastest(case: dict, batch: str = "", names: tuple[str, ...] = tuple(REFERENCES)) -> str:
    found = {
        name: value
        for name, value in case["speedup"].items()
        if name.endswith(batch) and name.split("/")[0] in names
    }
    return min(found, key=lambda name: found[name])


def table(report: dict) -> str:
    """Two tables and a line. Times x read and speed-ups are medians, GB/s the best round."""
    lines = [
        "| N x D | K | dtype | MB | GB/s | share of read | x read, median | best quarter | "
        "stable torch, 512 rows | same, whole | unstable `sums`, 512 rows | "
        "`published`, whole | error |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for case in report["large"]:
        shape = f"| {case['rows']:,} x {case['dim']} | {case['classes']:,} | {case['dtype']} "
        speed = f"| {case['bytes'] / 1e6:.0f} | {case['gb_per_s']:.1f} "
        read = f"| {100 / case['times_of_read']:.0f} % | {case['times_of_read']:.2f} "
        read += f"| {case['times_of_read_quartile']:.2f} "
        ratios = "| | | | "
        if case["speedup"]:
            stable = fastest(case, "/512", STABLE)
            names = (stable, stable.replace("512", "all"), "sums/512", "published/all")
            values = [
                f"{case['speedup'][name]:.1f}" if name in case["speedup"] else "" for name in names
            ]
            values[0] += f" ({stable.split('/')[0]})"
            ratios = "| " + " | ".join(values) + " "
        lines.append(f"{shape}{speed}{read}{ratios}| {case['error']:.0e} |")
    lines += ["", "| N x D | K | x read | vs the fastest torch |", "|---|--:|--:|--:|"]
    for case in report["grid"]:
        name = fastest(case)
        lines.append(
            f"| {case['rows']:,} x {case['dim']} | {case['classes']:,} "
            f"| {case['times_of_read']:.1f} | {case['speedup'][name]:.1f} ({name}) |"
        )
    small = report["small_call"]
    lines += [
        "",
        f"`ncfast.rnc1` on 1000 x 200, K = 10: {small['rnc1_us']:.0f} us, an empty custom op "
        f"{small['empty_op_us']:.0f} us, difference {small['median_difference_us']:.0f} us.",
    ]
    return "\n".join(lines) + "\n"


def write(report: dict) -> None:
    """Both result files."""
    text = table(report)
    print(text)
    (RESULTS / "cpu.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "cpu.md").write_text(text)


def conditions(rounds: int) -> dict[str, object]:
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "instruction_set": cpu.extension.instruction_set(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rounds": rounds,
    }


def large(i: int, rounds: int) -> dict[str, object]:
    if i < len(LARGE):
        return measure(*LARGE[i], rounds)
    return measure(200_000, 512, 100, rounds, dtype=OTHERS[i - len(LARGE)], references=False)


def grid(i: int) -> dict[str, object]:
    """A case of the grid; many rounds where one takes little."""
    rows, dim, k = GRID[i]
    return measure(rows, dim, k, 3 if rows * dim > 1_000_000 else 15, batches=GRID_BATCHES)


def measure_part(part: str, rounds: int) -> None:
    """Replace some cases of the last run: "small", "large:0" to "large:5" or "grid:0" and so on."""
    report = json.loads((RESULTS / "cpu.json").read_text())
    report |= conditions(rounds)
    name, _, which = part.partition(":")
    if name == "small":
        report["small_call"] = small_call(rounds)
    first, _, last = which.partition("-")
    for i in range(int(first), int(last or first) + 1) if which else ():
        case = large(i, rounds) if name == "large" else grid(i)
        report[name][i] = case
    write(report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="few cases, nothing is written")
    parser.add_argument("--part", nargs="+", help="replace these cases: small, large:0-2, grid:7")
    options = parser.parse_args()
    if options.part:
        for part in options.part:
            measure_part(part, options.rounds)
        return
    report = conditions(options.rounds) | {
        "small_call": small_call(options.rounds),
        "large": [
            large(i, options.rounds)
            for i in range(1 if options.quick else len(LARGE) + len(OTHERS))
        ],
        "grid": [grid(i) for i in range(6 if options.quick else len(GRID))],
    }
    if options.quick:
        print(table(report))
    else:
        write(report)


if __name__ == "__main__":
    main()
