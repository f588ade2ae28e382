"""The ten rows at the top of docs/performance.md: what a user does, ncfast and its best rival.

    python -m ncfast.benchmarks.first_screen --out benchmarks/results/amd-epyc-1-thread.json
    python -m ncfast.benchmarks.page

measures all ten with one thread, minutes on an idle machine, and writes the page. Each row is one
case of `ncfast bench`, whose command the page prints.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncfast.benchmarks.bench import bench
from ncfast.benchmarks.config import BenchConfig
from ncfast.benchmarks.operations import OPERATIONS
from ncfast.benchmarks.report import operations, prose, text, topics
from ncfast.benchmarks.table import duration

THREADS = 1
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One thing that a user does: a case of an operation, by number among the full cases.

    ``seconds`` is the time of the rounds: enough for three rounds of rivals that are not slow.
    """

    what: str
    operation: str
    case: int
    seconds: float = 10.0

    @property
    def command(self) -> str:
        """The command that measures it with one thread."""
        case = f"--ops {self.operation} --cases {self.case}"
        return f"ncfast bench {case} --threads {THREADS} --seconds {self.seconds:g}"

    def entry(self, report: Mapping[str, Any]) -> Entry | None:
        """The result in a file, or None."""
        wanted = dict(OPERATIONS[self.operation].cases(False)[self.case].sizes)
        for entry in report.get("operations", {}).get(self.operation, ()):
            if {k: v for k, v in entry["case"].items() if k != "caches"} == wanted:
                return entry
        return None


ROWS = (
    Row(
        "train an MLP, 200 steps of 100 images, with a record a step", "packages.training", 0, 30.0
    ),
    Row("train a ResNet18 on 32 x 32 images, with a record a step", "packages.training", 1, 60.0),
    Row("train a small transformer, with a record a step", "packages.training", 2, 40.0),
    Row("NC1 to NC5 of 50,000 x 512 features in 100 classes", "metrics.suite", 0, 40.0),
    Row("NC1 of 50,000 x 512 features in 1,000 classes", "packages.nc1", 1),
    Row("NC1 to NC3 of 2,000,000 tokens in 50,257 classes", "packages.vocabulary", 0, 20.0),
    Row("information of 20,000 pairs, 2 + 2 columns", "packages.information", 1),
    Row("information of ReLU features, half of them zero", "packages.information", 2),
    Row("information of 20,000 pairs of integers, not declared as such", "packages.information", 3),
    Row("5 neighbours of 5,000 rows with 512 columns", "knn", 4),
)


def found(reports: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], list[tuple[Row, Entry]]]]:
    """Environment, and rows with their results, of every file with one thread that has some."""
    files = []
    for report in reports.values():
        about = report.get("environment", {})
        rows = [(row, entry) for row in ROWS for entry in [row.entry(report)] if entry]
        if rows and about.get("threads") == THREADS:
            files.append((about, rows))
    return files


def table(reports: Mapping[str, Any]) -> str:
    """A table of ten rows for each machine, with day and load."""
    titles = ["what", "ncfast", "best rival", "its time", "ratio", "errors", "wrong", "machine"]
    tables = [
        text.table([*titles, "command"], [_line(row, about, entry) for row, entry in rows], 99)
        for about, rows in found(reports)
    ]
    return "\n\n".join(tables) or "Not measured in these files."


def below(reports: Mapping[str, Any]) -> list[str]:
    """How many numbers the rows of training log; nothing without such a row."""
    ours, theirs = set[int](), set[int]()
    for entry in [entry for _, rows in found(reports) for _, entry in rows]:
        for result in [operations.ours(entry), *operations.others(entry)]:
            count = ((result or {}).get("values") or {}).get("numbers a record")
            if result and count:
                (ours if result["kind"] == "ncfast" else theirs).add(int(count))
    if not ours or not theirs:
        return []
    return [prose.ROWS_BELOW.format(ours=max(ours), least=min(theirs), most=max(theirs))]


def _line(row: Row, about: Mapping[str, Any], entry: Entry) -> list[str]:
    mine, rivals = operations.ours(entry), operations.others(entry)
    wrong = [r for r in operations.wrong_of(entry) if r["kind"] != "ncfast"]
    cells = [row.what, duration(mine["median_s"]) if mine else "wrong"]
    if mine and rivals:
        best = rivals[0]
        cells += [best["contestant"], duration(best["median_s"]), operations.marked_ratio(best)]
        cells += [f"{text.error(mine['error'])}, {text.error(best['error'])}"]
    else:
        cells += ["none was right", "", "", text.error(mine["error"]) if mine else ""]
    told = "; ".join(f"{r['contestant']}{_number(r)}" for r in wrong)
    truth = _number({"values": entry.get("truth")}, "truth")
    where = f"{about['processor']}, {topics.days([entry])}"
    return [*cells, told + (truth if told else ""), where, f"`{row.command}`"]


def _number(result: Mapping[str, Any], word: str = "") -> str:
    """The number of an estimate, if the file keeps one."""
    nats = (result.get("values") or {}).get("nats")
    if nats is None:
        return ""
    return f"; {word} {nats:.3f}" if word else f" {nats:.3f}"


def figure(reports: Mapping[str, Any], path: Path) -> bool:
    """Draw the time of each rival over that of ncfast: a panel a machine; False without a row."""
    files = found(reports)
    if not files:
        return False
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    fig, panels = plt.subplots(
        1, len(files), figsize=(4 + 4.6 * len(files), 5), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, (about, rows) in zip(panels[0], files, strict=True):
        for row, entry in rows:
            _points(axis, ROWS.index(row), entry)
        axis.axvline(1, color="0.3", linewidth=1)
        axis.set(xscale="log", xlabel="time over that of ncfast", ylim=(len(ROWS) - 0.5, -0.5))
        axis.set_title(about["processor"], fontsize=10)
        axis.set_yticks(range(len(ROWS)), [row.what for row in ROWS], fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, axis="x", which="major", color="0.92", linewidth=0.8)
    for colour, marker, word in MARKS.values():
        panels[0][0].plot([], [], marker, color=colour, label=word)
    panels[0][0].plot([], [], "x", color="C3", label="wrong result")
    fig.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    fig.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(fig)
    return True


MARKS = {
    "library": ("C0", "o", "package"),
    "public": ("C1", "s", "published recipe"),
    "torch": ("0.5", "^", "torch"),
}


def _points(axis: Any, height: int, entry: Entry) -> None:
    """The rivals of one row."""
    for result in operations.others(entry):
        colour, marker, _ = MARKS[result["kind"]]
        axis.plot(result["ratio_to_ncfast"]["median"], height, marker, color=colour, markersize=6)
    mine = operations.ours(entry)
    for result in operations.wrong_of(entry):
        if mine and result["kind"] in MARKS:
            ratio = result["median_s"] / mine["median_s"]
            axis.plot(ratio, height, "x", color="C3", markersize=6)


def measure(rows: Sequence[Row], out: Path, seconds: float | None) -> None:
    """Measure rows with one thread; rows in succession that differ in their case share a call.

    ``seconds`` replaces that of every row.
    """
    for (operation, own), group in itertools.groupby(
        rows, lambda row: (row.operation, row.seconds)
    ):
        numbers = tuple(row.case for row in group)
        about: dict[str, Any] = {"threads": THREADS, "seconds": seconds or own, "out": out}
        bench(BenchConfig(ops=(operation,), cases=numbers, **about))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all rows into one file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, help="of the rounds of every row")
    given = parser.parse_args(argv)
    measure(ROWS, given.out, given.seconds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
