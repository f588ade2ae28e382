"""Measures how often wrong estimates carry a warning, and how often right ones do.

    OMP_NUM_THREADS=1 nice python benchmarks/studies/information_warnings.py        # 10 minutes
    python benchmarks/studies/information_warnings.py --draws 1 0 --ranks 1 0       # seconds

Every distribution of `ncfast.benchmarks.known_information` is drawn several times. The thresholds
of the warnings are fitted on half of the distributions and judged by the other half. The thresholds
in use are in ncfast/information/caveats.py. Writes benchmarks/results/information_warnings.json,
two tables of docs/information.md, and docs/images/information-warnings.png.
"""

import argparse
import itertools
import json
import math
import time
import warnings
from pathlib import Path
from statistics import mean, median

import matplotlib as mpl
import numpy as np
import torch

import ncfast
from ncfast.benchmarks import known_information, results_file
from ncfast.benchmarks.report import text
from ncfast.information import caveats, signals

mpl.use("Agg")
import matplotlib.pyplot as plt

COUNTS = (1_000, 10_000)
SPLIT_SEED, FIRST_DRAW = 15, 100
ALARMS = 0.025  # largest share of false warnings in the fit: half of the share that is allowed
CONSTANTS = ("LINEAR", "RADII", "SQUARES", "TREND", "SHARE", "CONDITIONAL_SHARE")
PACKAGE = tuple(getattr(caveats, name) for name in CONSTANTS)
# Three standard errors for the linear signal, because its own noise is larger at small N.
GRID = ((3.0,), (1.5, 2.0), (0.5, 1.0), (1.5, 2.0, 2.5), (0.1,), (0.15, 0.2))


def estimate(task, count, seed):
    """The estimate for one draw, with its signals and warnings."""
    blocks = task.sample(count, seed)
    call = ncfast.mutual_information if len(blocks) == 2 else ncfast.conditional_mutual_information
    start = time.perf_counter()
    found = call(*blocks)
    compared = signals.doubts(found.value, found.stderr, count, 5, dict(found.details))
    return {
        "task": task.name,
        "N": count,
        "truth": task.truth,
        "conditional": len(blocks) == 3,
        "value": found.value,
        "stderr": found.stderr,
        "signals": dict(found.details),
        "other": [doubt for doubt in found.warnings if doubt not in compared],
        "seconds": time.perf_counter() - start,
    }


def wrong(record):
    """Off by more than 10 %, 0.05 nats and 3 standard errors."""
    off = abs(record["value"] - record["truth"])
    return off > max(0.1 * abs(record["truth"]), 0.05, 3 * record["stderr"])


def right_tasks(records):
    """(task, N) of dependent data whose mean estimate is within 5 % of the truth."""
    groups = {}
    for record in records:
        groups.setdefault((record["task"], record["N"]), []).append(record)
    return {
        key
        for key, group in groups.items()
        if group[0]["truth"] > 0
        and abs(mean(r["value"] for r in group) / group[0]["truth"] - 1) <= 0.05
    }


def by_rule(record, rule=PACKAGE):
    """Whether a record carries a warning, its signals judged by the thresholds of a rule."""
    kept = {name: getattr(caveats, name) for name in CONSTANTS}
    try:
        for name, number in zip(CONSTANTS, rule, strict=True):
            setattr(caveats, name, number)
        found = record["value"], record["stderr"], record["N"], 5, record["signals"]
        return bool(record["other"] or signals.doubts(*found))
    finally:
        for name, number in kept.items():
            setattr(caveats, name, number)


def rates(records, alarm):
    """Numbers of records with a warning: of wrong ones, of right ones, and of independent data."""
    right = right_tasks(records)
    kinds = {
        "wrong": [r for r in records if wrong(r)],
        "right": [r for r in records if (r["task"], r["N"]) in right and not wrong(r)],
        "independent": [r for r in records if r["truth"] == 0 and not wrong(r)],
    }
    return {
        kind: {"n": len(group), "warned": sum(alarm(r) for r in group)}
        for kind, group in kinds.items()
    }


def share(entry):
    return entry["warned"] / entry["n"] if entry["n"] else math.nan


def fit(records):
    """The rule that finds most wrong estimates with at most `ALARMS` false warnings."""

    def worth(rule):
        found = rates(records, lambda r: by_rule(r, rule))
        alarms = max(share(found["right"]), share(found["independent"]))
        # Of equal rules the one with larger thresholds is taken.
        return alarms <= ALARMS, share(found["wrong"]), sum(rule)

    return max(itertools.product(*GRID), key=worth)


def halves():
    """Names of the tasks to fit on and of the tasks to judge by, each half of every suite."""
    rng = np.random.default_rng(SPLIT_SEED)
    fitted, judged = [], []
    for suite in ("published", "further", "unrelated", "conditioned"):
        names = [task.name for task in getattr(known_information, suite)()]
        order = rng.permutation(len(names))
        fitted += [names[i] for i in order[::2]]
        judged += [names[i] for i in order[1::2]]
    return fitted, judged


def summary(records):
    """The summary of each task and size."""
    lines = []
    for key in dict.fromkeys((r["task"], r["N"]) for r in records):
        group = [r for r in records if (r["task"], r["N"]) == key]
        values = [r["value"] for r in group]
        lines.append(
            {
                "task": key[0],
                "N": key[1],
                "conditional": group[0]["conditional"],
                "truth": group[0]["truth"],
                "draws": len(group),
                "mean": mean(values),
                "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "stderr": mean(r["stderr"] for r in group),
                "wrong": sum(wrong(r) for r in group),
                "warned": sum(map(by_rule, group)),
                "signals": {
                    name: mean(r["signals"][name] for r in group) for name in group[0]["signals"]
                },
            }
        )
    return lines


def rank_against_standardize(draws):
    """Relative errors of the mean estimate on the forty published tasks, by preprocessing."""
    table = []
    for count, number in zip(COUNTS, draws, strict=True):
        for preprocess in ("standardize", "rank") if number else ():
            errors = []
            for task in known_information.published():
                values = [
                    ncfast.mutual_information(
                        *task.sample(count, seed), preprocess=preprocess, stderr=False
                    ).value
                    for seed in range(number)
                ]
                errors.append(abs(mean(values) / task.truth - 1))
            table.append(
                {
                    "N": count,
                    "draws": number,
                    "preprocess": preprocess,
                    "mean": mean(errors),
                    "median": median(errors),
                    "over 10 %": sum(error > 0.1 for error in errors),
                    "over 30 %": sum(error > 0.3 for error in errors),
                }
            )
    return table


def rates_markdown(found):
    kinds = {"wrong": "wrong", "right": "right within 5 %", "independent": "independent"}
    rows = []
    for row in found:
        rows.append([row["half"], f"{row['N']:,}"])
        for entry in (row["rates"][kind] for kind in kinds):
            warned = f"{100 * share(entry):.1f} %" if entry["n"] else "–"
            rows[-1] += [str(entry["n"]), warned]
    titles = [title for kind in kinds.values() for title in (kind, "warned")]
    return text.table(["half", "N", *titles], rows)


def ranks_markdown(table):
    rows = [
        [
            f"{row['N']:,} ({row['draws']})",
            row["preprocess"],
            f"{row['mean']:.3f}",
            f"{row['median']:.3f}",
            f"{row['over 10 %']} of 40",
            str(row["over 30 %"]),
        ]
        for row in table
    ]
    titles = ["N (draws)", "`preprocess`", "mean", "median", "off > 10 %", "> 30 %"]
    return text.table(titles, rows, 2)


def figure(lines, judged):
    counts = [count for count in COUNTS if any(line["N"] == count for line in lines)]
    fig, axes = plt.subplots(
        1, len(counts), figsize=(5.2 * len(counts), 3.8), constrained_layout=True, squeeze=False
    )
    for axis, count in zip(axes[0], counts, strict=True):
        axis.axvspan(-10, 10, color="0.92", lw=0)
        for held, colour, label in ((False, "C0", "fitted on"), (True, "C1", "judged by")):
            for conditional, mark in ((False, "o"), (True, "^")):
                part = [
                    line
                    for line in lines
                    if line["N"] == count
                    and line["truth"] > 0
                    and line["conditional"] == conditional
                    and (line["task"] in judged) == held
                ]
                what = "conditional" if conditional else "mutual"
                axis.plot(
                    [100 * (line["mean"] / line["truth"] - 1) for line in part],
                    [100 * line["warned"] / line["draws"] for line in part],
                    mark, ms=5, alpha=0.6, color=colour, label=f"{label}, {what}",
                )  # fmt: skip
        axis.set(title=f"N = {count:,}", xlabel="error of the mean estimate (%)")
        axis.set(xlim=(-105, 30), ylim=(-5, 105))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("draws with a warning (%)")
    axes[0][0].legend(frameon=False, fontsize=8, loc="lower left")
    fig.savefig(text.images() / "information-warnings.png", dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, nargs=2, default=(6, 1), help="at each N")
    parser.add_argument("--ranks", type=int, nargs=2, default=(4, 1), help="draws of that table")
    parser.add_argument("--keep", type=Path, help="file for the single draws")
    parser.add_argument("--read", type=Path, help="take the draws from such a file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ncfast.EstimateWarning)
    start = time.perf_counter()
    if options.read:
        records = json.loads(options.read.read_text())
    else:
        records = [
            estimate(task, count, seed)
            for count, draws in zip(COUNTS, options.draws, strict=True)
            for task in known_information.everything()
            for seed in range(FIRST_DRAW, FIRST_DRAW + draws)
        ]
    if options.keep:
        options.keep.write_text(json.dumps(records))
    fitted, judged = halves()
    rule = fit([r for r in records if r["task"] in fitted])
    print("fitted:", dict(zip(CONSTANTS, rule, strict=True)))
    print("package:", dict(zip(CONSTANTS, PACKAGE, strict=True)))
    found = [
        {
            "N": count,
            "half": half,
            "rates": rates(
                [r for r in records if r["task"] in names and r["N"] == count],
                by_rule,
            ),
        }
        for count in COUNTS
        for half, names in (("fitted on", fitted), ("judged by", judged))
        if any(r["N"] == count for r in records)
    ]
    ranks = rank_against_standardize(options.ranks)
    lines = summary(records)
    for r in records:
        if r["task"] in judged and wrong(r) and not by_rule(r):
            print(f"silent: {r['task']}, N = {r['N']}: {r['value']:.3f} of {r['truth']:.3f}")
    about = {
        "torch": torch.__version__,
        "seconds": time.perf_counter() - start,
        "draws": dict(zip(COUNTS, options.draws, strict=True)),
        "split seed": SPLIT_SEED,
        "fitted": dict(zip(CONSTANTS, rule, strict=True)),
        "package": dict(zip(CONSTANTS, PACKAGE, strict=True)),
        "judged by": judged,
        "rates": found,
        "ranks": ranks,
        "tasks": lines,
    }
    written = results_file.folder() / "information_warnings.json"
    written.write_text(json.dumps(about, indent=1) + "\n")
    figure(lines, judged)
    text.publish("information.md", "rates of warnings", rates_markdown(found))
    text.publish("information.md", "preprocess", ranks_markdown(ranks))


if __name__ == "__main__":
    main()
