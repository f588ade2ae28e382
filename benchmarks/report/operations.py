"""Tables of the results of `ncfast bench`: overviews, losses, wrong results and all contestants."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ncfast.benchmarks.report import text
from ncfast.benchmarks.results_file import ran
from ncfast.benchmarks.table import duration

NO_RIVALS = ("ncfast", "baseline")
SLOW = 5  # times as slow as ncfast
NUMBERS = 3  # most of a result that a table shows
Entry = Mapping[str, Any]
Result = Mapping[str, Any]


def ours(entry: Entry) -> Result | None:
    """The result that ratios of this case refer to: the first right one of ncfast."""
    for result in ran(entry):
        if result["kind"] == "ncfast" and result["ok"]:
            return result
    return None


def others(entry: Entry) -> list[Result]:
    """The right results of all rivals, the fastest first."""
    found = [r for r in ran(entry) if r["kind"] not in NO_RIVALS and r["ok"]]
    timed = [r for r in found if r["ratio_to_ncfast"]]
    return sorted(timed, key=lambda result: result["ratio_to_ncfast"]["median"])


def wrong_of(entry: Entry) -> list[Result]:
    """The wrong results of ncfast and its rivals; a baseline computes something else."""
    return [r for r in ran(entry) if r["kind"] != "baseline" and not r["ok"]]


def every(reports: Mapping[str, Any]) -> Iterator[tuple[str, str, Entry]]:
    """File, operation and entry of every case."""
    for name, report in reports.items():
        for operation, entries in report.get("operations", {}).items():
            for entry in entries:
                yield name, operation, entry


def overview(entries: Sequence[Entry]) -> str:
    """One row per case: ncfast and the fastest right contestant."""
    rows = []
    for entry in entries:
        mine, rivals = ours(entry), others(entry)
        wrong = wrong_of(entry)
        if mine is None:
            row = ["none was right", "", "", ""]
        else:
            share = text.percent(mine["share_of_ceiling"])
            row = [mine["contestant"], text.times(mine), text.error(mine["error"]), share]
        if rivals:
            best = rivals[0]
            row += [best["contestant"], text.error(best["error"])]
            row += [marked_ratio(best)]
        else:
            row += ["none was right", "", ""]
        rows.append([text.case(entry["case"]), *row, str(len(wrong))])
    titles = ["case", "ncfast", "median [quartiles]", "error", "of ceiling"]
    titles += ["fastest other that is right", "its error", "its time over ncfast's", "wrong"]
    return text.table(titles, rows)


def marked_ratio(rival: Result) -> str:
    """The time of a rival over that of ncfast, in bold where the rival is faster."""
    ratio = text.ratio(rival)
    return f"**{ratio}**" if rival["ratio_to_ncfast"]["median"] < 1 else ratio


def glance(reports: Mapping[str, Any]) -> str:
    """One row per operation, one column per file: where ncfast is fastest, and by how much."""
    cells: dict[str, dict[str, str]] = {}
    for name, report in reports.items():
        for operation, entries in report.get("operations", {}).items():
            best = [others(entry)[0] for entry in entries if ours(entry) and others(entry)]
            found = sorted(rival["ratio_to_ncfast"]["median"] for rival in best)
            if found:
                faster = sum(ratio >= 1 for ratio in found)
                ends = f"{found[0]:.2f}, {statistics.median(found):.2f}, {found[-1]:.2f}"
                cells.setdefault(operation, {})[name] = f"{faster} of {len(found)}: {ends}"
    return by_file(["operation"], [([operation], row) for operation, row in cells.items()])


def by_file(titles: Sequence[str], rows: Sequence[tuple[list[str], Mapping[str, str]]]) -> str:
    """A table with one column for each file that a row has a cell of."""
    files = sorted({name for _, cells in rows for name in cells})
    lines = [[*first, *(cells.get(name, "") for name in files)] for first, cells in rows]
    return text.table([*titles, *(f"`{Path(name).stem}`" for name in files)], lines, len(titles))


def wrong_counts(reports: Mapping[str, Any]) -> str:
    """One row per operation: results of ncfast and of others that were wrong, and of how many."""
    counts: dict[str, list[int]] = {}
    for _, operation, entry in every(reports):
        line = counts.setdefault(operation, [0, 0, 0, 0])
        for result in ran(entry):
            if result["kind"] == "baseline":
                continue
            first = 0 if result["kind"] == "ncfast" else 2
            line[first] += not result["ok"]
            line[first + 1] += 1
    rows = [
        [operation, f"{mine} of {own}", f"{theirs} of {all_theirs}"]
        for operation, (mine, own, theirs, all_theirs) in counts.items()
    ]
    return text.table(["operation", "ncfast wrong", "others wrong"], rows)


def losses(reports: Mapping[str, Any]) -> str:
    """All right contestants that are faster than ncfast in some file, with their ratio in each."""
    least: dict[tuple[str, str, str], float] = {}
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for name, operation, entry in every(reports):
        for rival in others(entry):
            key = (operation, _sizes(entry), rival["contestant"])
            median = rival["ratio_to_ncfast"]["median"]
            least[key] = min(least.get(key, median), median)
            ratio = f"**{text.ratio(rival)}**" if _clear(rival) else text.ratio(rival)
            cells.setdefault(key, {})[name] = f"{ratio}; {text.error(rival['error'])}"
    lost = sorted((key for key, ratio in least.items() if ratio < 1), key=lambda key: least[key])
    if not lost:
        return "None in these files."
    return by_file(["operation", "case", "faster"], [([*key], cells[key]) for key in lost])


def _sizes(entry: Entry) -> str:
    """A case without its caches: the same sizes are cold on one machine and warm on another."""
    return text.case({name: v for name, v in entry["case"].items() if name != "caches"})


def _clear(rival: Result) -> bool:
    """Whether three rounds or more, and their quartiles, show that a rival is faster."""
    return rival["rounds"] > 2 and rival["ratio_to_ncfast"]["quartiles"][1] < 1


def wrong(reports: Mapping[str, Any]) -> str:
    """All results with an error over their budget: error, and time over ncfast's, in each file."""
    cells: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for name, operation, entry in every(reports):
        mine = ours(entry)
        for result in wrong_of(entry):
            against = f"; {result['median_s'] / mine['median_s']:.2f}" if mine else ""
            budget = text.error(result["budget"])
            key = (operation, _sizes(entry), result["contestant"], budget)
            cells.setdefault(key, {})[name] = text.error(result["error"]) + against
    if not cells:
        return "None in these files."
    titles = ["operation", "case", "contestant", "allowed"]
    return by_file(titles, [([*key], row) for key, row in cells.items()])


def absent(reports: Mapping[str, Any]) -> str:
    """Contestants that did not run, and the reasons."""
    reasons: dict[tuple[str, str, str], int] = {}
    for _, operation, entry in every(reports):
        for result in entry["results"]:
            if "reason" in result:
                place = (operation, result["contestant"], result["reason"])
                reasons[place] = reasons.get(place, 0) + 1
    if not reasons:
        return "Everyone ran in every case."
    rows = [[*place, text.plural(count, "case")] for place, count in reasons.items()]
    return text.table(["operation", "contestant", "reason", ""], rows, 3)


def in_full(entry: Entry) -> str:
    """All contestants of one case, folded away; the slow ones in one line below the table."""
    kept = any(result.get("values") for result in ran(entry))
    slow = [r for r in others(entry) if r["ratio_to_ncfast"]["median"] >= SLOW]
    rows = [
        [
            result["contestant"] + ("" if result["ok"] else " (wrong)"),
            *([numbers(result.get("values"))] if kept else []),
            text.error(result["error"]),
            duration(result["median_s"]),
            text.ratio(result) or _of_medians(result, ours(entry)),
            text.percent(result["share_of_ceiling"]),
        ]
        for result in ran(entry)
        if result not in slow
    ]
    titles = ["contestant", *(["numbers"] if kept else []), "error", "median", "ratio"]
    if any(row[-1] for row in rows):
        titles.append("of ceiling")
    body = text.table(titles, [row[: len(titles)] for row in rows])
    if slow:
        told = (f"{r['contestant']} ({r['ratio_to_ncfast']['median']:.0f})" for r in slow)
        body += f"\n\nRight, and {SLOW} times as slow as ncfast or slower: " + "; ".join(told) + "."
    counts = [f"truth {numbers(entry['truth'])}"] if entry.get("truth") else []
    counts += [text.size(entry["bytes"])] if entry["bytes"] else []
    counts += [f"{entry['flops']:.1e} operations"] if entry["flops"] else []
    head = text.case(entry["case"]) + (": " if counts else "") + ", ".join(counts)
    return text.folded(head, body)


def numbers(values: Mapping[str, float | None] | None) -> str:
    """The numbers that a file keeps of a result: the first of them, and how many more."""
    known = [f"{n} NaN" if v is None else f"{n} {v:.4g}" for n, v in (values or {}).items()]
    more = [f"{len(known) - NUMBERS} more"] if len(known) > NUMBERS else []
    return ", ".join([*known[:NUMBERS], *more])


def _of_medians(result: Result, mine: Result | None) -> str:
    """The ratio of a wrong result, in italics, because it compares nothing of the same worth."""
    return f"*{result['median_s'] / mine['median_s']:.2f}*" if mine else ""
