"""Measures how often value +- 1.96 stderr covers the mean of the estimator.

    OMP_NUM_THREADS=1 nice python benchmarks/studies/information_errors.py      # 15 minutes
    python benchmarks/studies/information_errors.py --page                      # from the numbers

A cell is an estimator with a distribution, k and N. It is repeated on new draws. Coverage is the
share of intervals that contain the mean of all values. Width is the mean standard error over the
standard deviation of the values. Cells in benchmarks/results/information_errors.json with enough
repetitions are not measured again. Writes that file, a table of docs/information.md, and
docs/images/information-errors.png.
"""

import argparse
import itertools
import json
import math
import time
import warnings

import matplotlib as mpl
import numpy as np
import torch

import ncfast
from ncfast.benchmarks import results_file
from ncfast.benchmarks.report import text

mpl.use("Agg")
import matplotlib.pyplot as plt

RESULTS = results_file.folder() / "information_errors.json"
# (N, k), the cheap ones first
SIZES = [
    (30, 3),
    (30, 5),
    (100, 5),
    (100, 20),
    (300, 5),
    (300, 50),
    (1000, 5),
    (1000, 50),
    (10_000, 5),
    (10_000, 50),
]


def normal(*shape, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def gaussian(rho):
    def estimate(count, k, seed):
        x, noise = normal(2, count, seed=seed)
        y = rho * x + math.sqrt(1 - rho**2) * noise
        return ncfast.mutual_information(x, y, k=k)

    return estimate


def student_rows(count, freedom, seed):
    square = normal(count, freedom, seed=1_000_003 + seed).square().sum(1, keepdim=True)
    return normal(count, 2, seed=seed) / (square / freedom).sqrt()


def student(freedom):
    def estimate(count, k, seed):
        x, y = student_rows(count, freedom, seed).split(1, 1)
        return ncfast.mutual_information(x, y, k=k)

    return estimate


def chain(count, k, seed):
    z, one, two = normal(3, count, seed=seed)
    return ncfast.conditional_mutual_information(z + one, z + two, z, k=k)


def conditional(count, k, seed):
    z, one, two = normal(3, count, seed=seed)
    y = z + 0.9 * one + math.sqrt(0.19) * two
    return ncfast.conditional_mutual_information(z + one, y, z, k=k)


def classes(count, k, seed):
    labels = torch.arange(count) % 3
    return ncfast.label_information(normal(count, seed=seed) + 2 * labels, labels, k=k)


def no_classes(count, k, seed):
    return ncfast.label_information(normal(count, seed=seed), torch.arange(count) % 10, k=k)


TASKS = {
    "I, independent": gaussian(0.0),
    "I, correlation 0.6": gaussian(0.6),
    "I, correlation 0.99": gaussian(0.99),
    "I, Student, 1 degree of freedom": student(1),
    "I, Student, 2 degrees of freedom": student(2),
    "h, Gaussian, 2 columns": lambda count, k, seed: ncfast.entropy(
        normal(count, 2, seed=seed), k=k
    ),
    "h, Student, 1 degree, 2 columns": lambda count, k, seed: ncfast.entropy(
        student_rows(count, 1, seed), k=k
    ),
    "I given z, chain (0)": chain,
    "I given z, correlation 0.9": conditional,
    "I with 3 classes": classes,
    "I with 10 random classes (0)": no_classes,
}


def measure(task, count, k, repeats):
    start = time.perf_counter()
    found = [TASKS[task](count, k, seed) for seed in range(repeats)]
    values, errors = (np.array([getattr(one, n) for one in found]) for n in ("value", "stderr"))
    inside = np.abs(values - values.mean()) <= 1.96 * errors
    none = bool(np.isnan(errors).any())
    return {
        "task": task,
        "N": count,
        "k": k,
        "repeats": repeats,
        "coverage": None if none else float(inside.mean()),
        "width": None if none else float(errors.mean() / values.std(ddof=1)),
        "mean": float(values.mean()),
        "seconds": round(time.perf_counter() - start, 1),
    }


def key(cell):
    return cell["task"], cell["N"], cell["k"]


def run(repeats):
    cells = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    kept = {key(cell): cell for cell in cells if cell["repeats"] >= repeats}
    for (count, k), task in itertools.product(SIZES, TASKS):
        if (task, count, k) in kept:
            continue
        cell = measure(task, count, k, repeats)
        kept[key(cell)] = cell
        print(task, count, k, cell["coverage"], cell["width"], sep="  ")
        RESULTS.write_text(json.dumps(list(kept.values()), indent=1) + "\n")


def table(cells):
    """The range over all cells, and folded away the coverage in % and the width of each."""
    known = [cell for cell in cells if cell["width"] is not None]
    coverage, width = ([cell[name] for cell in known] for name in ("coverage", "width"))
    head = (
        f"Over {len(known)} cells the coverage is {min(coverage):.0%} to {max(coverage):.0%}, and "
        f"the width {min(width):.1f} to {max(width):.1f} times the exact one."
    )
    found = {key(cell): cell for cell in cells}
    counts = sorted({cell["N"] for cell in cells})
    rows = []
    for task, k in itertools.product(TASKS, sorted({cell["k"] for cell in cells})):
        row = {count: found.get((task, count, k)) for count in counts}
        texts = ["NaN" if count < 5 * k else _text(cell) for count, cell in row.items()]
        if any(row.values()):
            rows.append([task, str(k), *texts])
    whole = text.table(["", "k", *(f"N = {count:,}" for count in counts)], rows)
    return f"{head}\n\n{text.folded('All cells', whole)}"


def _text(cell):
    if cell is None:
        return "–"
    return "NaN" if cell["width"] is None else f"{cell['coverage']:.0%} ({cell['width']:.1f})"


def figure(cells):
    cells = [cell for cell in cells if cell["width"] is not None]
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    counts = sorted({cell["N"] for cell in cells})
    kinds = {
        "I,": "mutual information",
        "h,": "entropy",
        "I given": "conditional information",
        "I with": "label information",
    }
    for index, (start, name) in enumerate(kinds.items()):
        mine = [cell for cell in cells if cell["task"].startswith(start)]
        places = [counts.index(cell["N"]) + 0.17 * (index - 1.5) for cell in mine]
        for axis, what in zip(axes, ("coverage", "width"), strict=True):
            axis.plot(places, [c[what] for c in mine], "o", ms=4, alpha=0.7, label=name)
    for axis in axes:
        axis.set_xticks(range(len(counts)), [f"{count:,}" for count in counts])
        axis.set_xlabel("samples N")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].axhline(0.9, color="0.5", linewidth=1)
    axes[0].set(title="value ± 1.96 stderr covers the estimator's mean", ylim=(0.8, 1.005))
    axes[0].set_yticks([0.8, 0.85, 0.9, 0.95, 1.0])
    axes[0].yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
    axes[1].axhline(2, color="0.5", linewidth=1)
    axes[1].set(title="width over that of the exact interval", ylim=(0, 2.6))
    axes[0].legend(frameon=False, loc="lower right")
    fig.savefig(text.images() / "information-errors.png", dpi=110)


def page():
    cells = json.loads(RESULTS.read_text())
    figure(cells)
    text.publish("information.md", "standard errors", table(cells))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--page", action="store_true", help="write only the table and the figure")
    asked = parser.parse_args()
    warnings.simplefilter("ignore", ncfast.EstimateWarning)
    torch.set_num_threads(1)
    if not asked.page:
        run(asked.repeats)
    page()
