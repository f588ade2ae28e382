"""Cases with an aim: what ncfast lost or was slow at, against what, and how far it is now.

    python -m ncfast.benchmarks.aims --out benchmarks/results/amd-epyc-1-thread.json

measures them all with one thread. docs/performance.md shows the results of each file.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ncfast.benchmarks.first_screen import Row, measure
from ncfast.benchmarks.operations.class_moments import READ
from ncfast.benchmarks.report import operations
from ncfast.benchmarks.report.prose import LIMITS
from ncfast.benchmarks.results_file import ran

Entry = Mapping[str, Any]
Unit = Literal["its time over ncfast's", "ncfast's time over it", "us more than it"]
NOTHING = "an operator that does nothing"


@dataclass(frozen=True)
class Aim:
    """A case, what it is measured against, and the value to reach.

    Attributes:
        row: what is done, and the case.
        against: the name of a contestant; None for the fastest right rival.
        unit: how both are compared. The first is to be at least the aim, the others at most.
        aim: the value to reach.
        limit: what stands in the way, as measured; told where the aim is missed.
    """

    row: Row
    against: str | None
    unit: Unit
    aim: float
    limit: str = ""

    def value(self, entry: Entry) -> tuple[str, float] | None:
        """Who it was measured against, and the value; None if one of both did not run right."""
        mine = operations.ours(entry)
        others = operations.others(entry) if self.against is None else ran(dict(entry))
        found = [r for r in others if self.against in (None, r["contestant"])]
        if mine is None or not found or not found[0]["ratio_to_ncfast"]:
            return None
        other = found[0]
        ratio = other["ratio_to_ncfast"]["median"]
        value = {
            "its time over ncfast's": ratio,
            "ncfast's time over it": 1 / ratio,
            "us more than it": 1e6 * (mine["median_s"] - other["median_s"]),
        }[self.unit]
        return other["contestant"], value

    def reached(self, value: float) -> bool:
        """Whether a value is as good as the aim."""
        return value >= self.aim if self.unit == "its time over ncfast's" else value <= self.aim


def _faster(what: str, operation: str, case: int, aim: float, limit: str = "") -> Aim:
    return Aim(Row(what, operation, case), None, "its time over ncfast's", aim, limit)


def _reads(what: str, case: int, aim: float, limit: str) -> Aim:
    return Aim(Row(what, "class_moments.grid", case), READ, "ncfast's time over it", aim, limit)


AIMS = (
    _faster("Sigma_W of 1,000 x 200", "sigma_w", 0, 1.0, LIMITS["sigma_w"]),
    _faster("neighbours of 5,000 x 512", "knn", 4, 1.0),
    Aim(Row("rnc1 of 1,000 x 200", "rnc1.call", 0), NOTHING, "us more than it", 25, LIMITS["call"]),
    _reads("moments in bfloat16", 3, 1.2, LIMITS["half"]),
    _reads("moments in float16", 4, 1.2, LIMITS["half"]),
    _reads("moments in 1,000 classes", 2, 1.25, LIMITS["scattered"]),
    _faster("moments of 20,000 rows in 10,000 classes", "class_moments", 6, 1.0),
    _faster("a sweep of 8 replicas", "replica_step", 1, 2.0, LIMITS["sweep"]),
)


def table(reports: Mapping[str, Any]) -> str:
    """A line for each aim that a file has the case of; below, what limits those that are missed."""
    rows, missed = list[tuple[list[str], dict[str, str]]](), dict[str, list[str]]()
    for aim in AIMS:
        cells = {}
        for name, report in reports.items():
            entry = aim.row.entry(report)
            value = aim.value(entry) if entry else None
            if value:
                cells[name] = _cell(aim, *value)
                if aim.limit and not aim.reached(value[1]):
                    whats = missed.setdefault(aim.limit, [])
                    whats += [aim.row.what] if aim.row.what not in whats else []
        if cells:
            who = aim.against or "the fastest right rival"
            first = [aim.row.what, who, aim.unit, f"{aim.aim:g}", f"`{aim.row.command}`"]
            rows.append((first, cells))
    if not rows:
        return "Not measured in these files."
    told = [f"- **{', '.join(whats)}.** {limit}" for limit, whats in missed.items()]
    lines = operations.by_file(["what", "against", "", "aim", "command"], rows)
    return "\n\n".join([lines, *(["\n".join(told)] if told else [])])


def _cell(aim: Aim, other: str, value: float) -> str:
    shown = f"{value:.2f}" if aim.reached(value) else f"**{value:.2f}**, missed"
    return shown if aim.against else f"{shown} ({other})"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all aims into one file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, help="of the rounds of every case")
    given = parser.parse_args(argv)
    measure([aim.row for aim in AIMS], given.out, given.seconds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
