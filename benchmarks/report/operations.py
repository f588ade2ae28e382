"""What `ncfast bench` found: an overview, the losses, who was wrong, and everyone in full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ncfast.benchmarks.report import text
from ncfast.benchmarks.results_file import ran
from ncfast.benchmarks.table import duration

Entry = Mapping[str, Any]
Result = Mapping[str, Any]


def ours(entry: Entry) -> Result | None:
    """What the ratios of this case refer to: the first of ncfast that ran and was right."""
    for result in ran(entry):
        if result["kind"] == "ncfast" and result["ok"]:
            return result
    return None


def others(entry: Entry) -> list[Result]:
    """Everyone else who was right, the fastest one first."""
    found = [r for r in ran(entry) if r["kind"] != "ncfast" and r["ok"] and r["ratio_to_ncfast"]]
    return sorted(found, key=lambda result: result["ratio_to_ncfast"]["median"])


def every(reports: Mapping[str, Any]) -> Iterator[tuple[str, str, Entry]]:
    """File, operation and entry of every case."""
    for name, report in reports.items():
        for operation, entries in report.get("operations", {}).items():
            for entry in entries:
                yield name, operation, entry


def overview(entries: Sequence[Entry]) -> str:
    """A line a case: ncfast beside the fastest right one of all others."""
    rows = []
    for entry in entries:
        mine, rivals = ours(entry), others(entry)
        wrong = [r for r in ran(entry) if not r["ok"]]
        if mine is None:
            row = ["none was right", "", "", ""]
        else:
            share = text.percent(mine["share_of_ceiling"])
            row = [mine["contestant"], text.times(mine), text.error(mine["error"]), share]
        if rivals:
            best = rivals[0]
            row += [best["contestant"], text.error(best["error"])]
            row += [_bold_below_one(best)]
        else:
            row += ["none was right", "", ""]
        rows.append([text.case(entry["case"]), *row, str(len(wrong))])
    titles = ["case", "ncfast", "median [quartiles]", "error", "of ceiling"]
    titles += ["fastest other that is right", "its error", "its time over ncfast's", "wrong"]
    return text.table(titles, rows)


def _bold_below_one(rival: Result) -> str:
    ratio = text.ratio(rival)
    return f"**{ratio}**" if rival["ratio_to_ncfast"]["median"] < 1 else ratio


def losses(reports: Mapping[str, Any]) -> str:
    """Every case in which somebody who is right is faster than ncfast."""
    rows = []
    for name, operation, entry in every(reports):
        for rival in others(entry):
            found = rival["ratio_to_ncfast"]
            if found["median"] < 1:
                row = [
                    operation,
                    text.case(entry["case"]),
                    rival["contestant"],
                    _clear(rival),
                    name,
                ]
                row += [text.error(rival["error"]), text.ratio(rival)]
                rows.append((found["median"], row))
    if not rows:
        return "None in these files."
    titles = ["operation", "case", "faster", "", "file", "its error", "its time over ncfast's"]
    return text.table(titles, [row for _, row in sorted(rows, key=lambda row: row[0])], 5)


def _clear(rival: Result) -> str:
    """Whether the quartiles of the ratio leave a doubt."""
    if rival["rounds"] < 3:
        return text.plural(rival["rounds"], "round") + " only"
    return "clearly" if rival["ratio_to_ncfast"]["quartiles"][1] < 1 else "within the noise"


def wrong(reports: Mapping[str, Any]) -> str:
    """Every contestant whose error is over its budget, with the time it took for that."""
    rows = []
    for name, operation, entry in every(reports):
        mine = ours(entry)
        for result in ran(entry):
            if not result["ok"]:
                against = f"{result['median_s'] / mine['median_s']:.2f}" if mine else ""
                errors = [text.error(result["error"]), text.error(result["budget"])]
                who = [operation, text.case(entry["case"]), result["contestant"], name]
                rows.append([*who, *errors, against])
    if not rows:
        return "None in these files."
    titles = ["operation", "case", "contestant", "file", "error", "allowed"]
    return text.table([*titles, "median over ncfast's"], rows, 4)


def absent(reports: Mapping[str, Any]) -> str:
    """Who did not run, and why."""
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
    """Everyone who ran on one case, folded away."""
    rows = [
        [
            result["contestant"] + ("" if result["ok"] else " (wrong)"),
            text.error(result["error"]),
            text.error(result["budget"]),
            duration(result["median_s"]),
            " to ".join(duration(value) for value in result["quartiles_s"]),
            str(result["rounds"]),
            text.ratio(result),
            text.percent(result["share_of_ceiling"]),
        ]
        for result in ran(entry)
    ]
    titles = ["contestant", "error", "allowed", "median", "quartiles", "rounds"]
    body = text.table([*titles, "time over ncfast's", "of ceiling"], rows)
    counts = [text.size(entry["bytes"])] if entry["bytes"] else []
    counts += [f"{entry['flops']:.1e} operations"] if entry["flops"] else []
    head = text.case(entry["case"]) + (": " if counts else "") + ", ".join(counts)
    return text.folded(head, body)
