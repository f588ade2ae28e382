"""Nearest neighbours and KSG radii and counts against the usual ways, on a CPU.

    python benchmarks/studies/neighbors.py knn 20000 10       one cell; "knn" or "ksg": all
    python benchmarks/studies/neighbors.py engines 20000 4   our engines against each other
    python benchmarks/studies/neighbors.py table             the tables of docs/neighbors.md

Standard normal rows in float64 and k = 5; for KSG two blocks of d columns, each pair of columns
correlated by 0.9. Contenders run in turn, round after round; a ratio is the median over rounds of
the ratio within a round, a time the minimum. A cell is timed only after its results agree with
cKDTree's, radii to 1e-12 and counts exactly. A contender that takes over 4 s runs once; one that
would take minutes is left out. Adds its cells to benchmarks/results/neighbors.json.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from ncfast.benchmarks import results_file
from ncfast.benchmarks.plain.neighbors import KNN, KSG
from ncfast.information.neighbors import joint_radii_and_counts, knn

RESULT = results_file.folder() / "neighbors.json"
K = 5
KNN_CELLS = [(n, d) for n in (1000, 5000, 20_000, 60_000) for d in (2, 5, 10, 20)]
KSG_CELLS = [
    (n, d) for n in (1000, 5000, 20_000, 60_000) for d in (1, 2, 5, 10) if (n, d) != (60_000, 10)
]
ENGINE_CELLS = [(n, d) for n in (1000, 5000, 20_000, 60_000) for d in (1, 2, 3, 4, 5, 6, 8)]
ENGINE_CELLS += [(n, d) for n in (5000, 20_000) for d in (64, 256, 512, 1024)]
SLOW, SETTLE = 4.0, 0.02
# N d from which a contender takes more than half a minute here
HOPELESS = {"BallTree": 300_000, "KDTree": 300_000, "cKDTree": 700_000}
HOPELESS_KSG = {"cKDTree": 200_000, "KDTree": 300_000, "cKDTree + KDTree threads": 1 << 60}


def rows(n: int, d: int) -> np.ndarray:
    return np.random.default_rng(n + d).standard_normal((n, d))


def pair(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    x, noise = rows(n, d), rows(n, d + 1000)[:, :d]
    return x, 0.9 * x + np.sqrt(1 - 0.81) * noise


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    first = {name: seconds(call) for name, call in calls.items()}
    times = {name: [t] if t > SLOW else [] for name, t in first.items()}
    for _ in range(rounds):
        for name, call in calls.items():
            if first[name] <= SLOW:
                time.sleep(SETTLE)
                times[name].append(seconds(call))
    return times


def summary(times: dict[str, list[float]], ours: str) -> dict[str, object]:
    reference = times[ours]

    def ratio(values: list[float]) -> float:
        if len(values) < len(reference):
            return min(values) / statistics.median(reference)
        return statistics.median(t / o for t, o in zip(values, reference, strict=True))

    return {
        "seconds": {name: min(values) for name, values in times.items()},
        "ratio": {name: ratio(values) for name, values in times.items() if name != ours},
    }


def knn_cell(n: int, d: int, rounds: int) -> dict[str, object]:
    x = rows(n, d)
    tensor = torch.from_numpy(x)
    found = knn(tensor, K)
    sample = np.arange(0, n, max(1, n // 500))
    gap = np.abs(found.distances.numpy()[sample] - exact(x, sample))
    if not gap.max() <= 1e-12:
        raise SystemExit(f"{n} x {d}: distances are {gap.max():.1e} off")
    calls: dict[str, Callable[[], object]] = {"ncfast": lambda: knn(tensor, K)}
    for name, function in KNN.items():
        if n * d < HOPELESS.get(name, 1 << 60):
            calls[name] = lambda f=function: f(x, K)
    return {
        "n": n,
        "d": d,
        "backend": found.backend,
        **summary(interleaved(calls, rounds), "ncfast"),
    }


def exact(x: np.ndarray, sample: np.ndarray) -> np.ndarray:
    gaps = [np.sort(np.sqrt(((x - x[i]) ** 2).sum(1)))[1 : K + 1] for i in sample]
    return np.stack(gaps)


def ksg_cell(n: int, d: int, rounds: int) -> dict[str, object]:
    x, y = pair(n, d)
    blocks = [torch.from_numpy(x), torch.from_numpy(y)]
    found = joint_radii_and_counts(blocks, K, metric="linf")
    name, theirs = next((name, f) for name, f in KSG.items() if n * d < HOPELESS_KSG[name])
    radii, counts = theirs(x, y, K)
    same = all((a.numpy() == b).all() for a, b in zip(found.counts, counts, strict=True))
    if not (same and (found.radii.numpy() == radii).all()):
        raise SystemExit(f"{n} x {d}: radii or counts differ from those of {name}")
    calls: dict[str, Callable[[], object]] = {
        "ncfast": lambda: joint_radii_and_counts(blocks, K, metric="linf"),
        "ncfast l2max": lambda: joint_radii_and_counts(blocks, K),
    }
    for name, function in KSG.items():
        if n * d < HOPELESS_KSG[name]:
            calls[name] = lambda f=function: f(x, y, K)
    return {
        "n": n,
        "d": d,
        "backend": found.backend,
        **summary(interleaved(calls, rounds), "ncfast"),
    }


def engine_cell(n: int, d: int, rounds: int) -> dict[str, object]:
    x = torch.from_numpy(rows(n, d))
    calls: dict[str, Callable[[], object]] = {}
    for name in ("direct", "tree", "scipy") if d <= 8 else ("direct", "faiss", "gemm"):
        calls[name] = lambda b=name: knn(x, K, backend=b)
        if name in ("direct", "tree") and 2 <= d <= 8 and d % 2 == 0:
            blocks = [x[:, : d // 2], x[:, d // 2 :]]
            calls[f"{name} joint"] = lambda b=name, z=blocks: joint_radii_and_counts(
                z, K, backend=b
            )
    return {"n": n, "d": d, **summary(interleaved(calls, rounds), "direct")}


CELLS = {
    "knn": (KNN_CELLS, knn_cell),
    "ksg": (KSG_CELLS, ksg_cell),
    "engines": (ENGINE_CELLS, engine_cell),
}


def store(kind: str, cell: dict[str, object]) -> None:
    data = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    data["machine"] = {
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    known = data.setdefault(kind, [])
    known[:] = [each for each in known if (each["n"], each["d"]) != (cell["n"], cell["d"])]
    known.append(cell)
    known.sort(key=lambda each: (each["n"], each["d"]))
    RESULT.write_text(json.dumps(data, indent=1) + "\n")


def time_text(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.1f} ms"


def table(kind: str) -> str:
    cells = json.loads(RESULT.read_text()).get(kind, [])
    names: dict[str, None] = {}
    for cell in cells:
        names.update(dict.fromkeys(cell["seconds"]))
    lines = [
        f"| N | d | {' | '.join(names)} | best other over ours |",
        "|--:|--:|" + "--:|" * (len(names) + 1),
    ]
    for cell in cells:
        times = [time_text(cell["seconds"][n]) if n in cell["seconds"] else "" for n in names]
        others = {n: r for n, r in cell["ratio"].items() if not n.startswith("ncfast")}
        best = min(others.values(), default=float("nan"))
        lines.append(f"| {cell['n']:,} | {cell['d']} | {' | '.join(times)} | {best:.1f} |")
    return "\n".join(lines)


def main() -> None:
    kind, *size = sys.argv[1:] or ["knn"]
    if kind == "table":
        for each in CELLS:
            print(f"\n{each}\n\n{table(each)}")
        return
    cells, measure = CELLS[kind]
    if size:
        cells = [(int(size[0]), int(d)) for d in size[1:]] or [
            c for c in cells if c[0] == int(size[0])
        ]
    for n, d in cells:
        cell = measure(n, d, 9 if n <= 5000 else 3)
        store(kind, cell)
        print(kind, json.dumps(cell), flush=True)


if __name__ == "__main__":
    main()
