"""Writes docs/reliability.md from the results: ``python -m ncfast.benchmarks.reliability.page``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ncfast.benchmarks.reliability import prose
from ncfast.benchmarks.report import text
from ncfast.benchmarks.results_file import OURS

RESULTS = OURS / "reliability.json"
PAGE = Path(__file__).parent.parent.parent / "docs" / "reliability.md"
Results = Mapping[str, Any]


def page(report: Results) -> str:
    """The page in Markdown.

    Args:
        report: the content of the results file. Stages that it lacks are left out.
    """
    results = report["results"]
    parts = [prose.HEAD, text.table(["promise", "tried", "lost"], _promises(results), 1)]
    sections = {
        "kills": (prose.KILLS, _kills),
        "disk": (prose.DISK, None),
        "calls": (prose.CALLS, _calls),
        "ranks": (prose.RANKS, _ranks),
        "files": (prose.FILES, _files),
        "soak": (prose.SOAK, _soak),
    }
    for stage, (words, made) in sections.items():
        if stage in results:
            parts.append(_filled(words, stage, results))
            parts += [made(results[stage])] if made is not None else []
    return "\n\n".join([*parts, prose.RERUN, _where(report)]) + "\n"


def _promises(results: Results) -> list[list[str]]:
    """A row for each promise that was tried."""
    rows: list[list[str]] = []
    kills = results.get("kills", {})
    for name, promise in (
        ("train", "A killed `ncfast train` goes on to the same log and weights, bit by bit."),
        ("sweep", "So does `ncfast sweep`, replica by replica."),
        ("tracker", "A killed `Tracker` keeps what was flushed, and goes on to the same records."),
    ):
        if name in kills:
            lost = kills[name]["differ"] + kills[name]["not_resumed"]
            lost += sum("temporary" not in line for line in _extra(kills[name]))
            rows.append([promise, f"{kills[name]['kills']} kills", f"{lost} runs"])
    for disk in results.get("disk", {}).values():
        lost = disk["differ"] + disk["ended"] + disk["silent"]
        promise = "A full disk ends no tracked training, and costs no earlier record."
        rows.append([promise, f"{disk['full']} full disks", f"{lost} runs"])
    rows += _promised_calls(results.get("calls", {}))
    for ranks in results.get("ranks", {}).values():
        lost = ranks["faulty"] + ranks["aborted"] + ranks["hung"]
        promise = "A rank that fails makes no other rank wrong, and none hang or abort."
        rows.append([promise, f"{ranks['runs']} groups of ranks", f"{lost} ranks"])
    files = results.get("files", {})
    if files:
        tried, wrong = (sum(part[key] for part in files.values()) for key in ("mutations", "wrong"))
        promise = "A damaged file is refused in one line, or does no harm."
        rows.append([promise, f"{tried:,} files of {len(files)} formats", f"{wrong} formats"])
    for soak in results.get("soak", {}).values():
        promise = "A long run loses no record."
        lost = soak["missing"] + soak["differ"]
        rows.append([promise, f"{soak['steps']:,} steps", f"{lost} records"])
        growth = (
            soak["points"][-1]["resident_mib"]
            - soak["points"][len(soak["points"]) // 4]["resident_mib"]
        )
        promise = "Its memory does not grow."
        rows.append([promise, f"{3 * soak['steps'] // 4:,} steps", f"{growth:+.1f} MiB"])
    return rows


def _extra(part: Results) -> list[str]:
    """The problems that are in no other count."""
    counted = ("differs", "resuming failed")
    return [line for line in part["problems"] if not any(word in line for word in counted)]


def _promised_calls(calls: Results) -> list[list[str]]:
    rows = []
    numbers = [part for name, part in calls.items() if name != "wrong arguments"]
    if numbers:
        tried, wrong = (sum(part[key] for part in numbers) for key in ("calls", "wrong"))
        promise = "Numbers are right for every input that the definitions allow, on both backends."
        rows.append([promise, f"{tried:,} calls", f"{wrong} numbers"])
    if "wrong arguments" in calls:
        part = calls["wrong arguments"]
        promise = "A wrong argument gives an error that names it."
        rows.append([promise, f"{part['calls']:,} calls", f"{part['wrong']} calls"])
    return rows


def _filled(words: str, stage: str, results: Results) -> str:
    if stage == "ranks":
        names = results["ranks"]["gloo"]["names"]
        return words.format(cases="; ".join(names))
    return words.format(steps=results["soak"]["tracker"]["steps"]) if stage == "soak" else words


def _kills(kills: Results) -> str:
    rows = [
        [
            name,
            str(part["kills"]),
            str(part["differ"]),
            str(part["not_resumed"]),
            str(sum("temporary" in line for line in part["problems"])),
        ]
        for name, part in kills.items()
    ]
    titles = ["run", "kills", "differ at the end", "do not go on", "left a temporary file"]
    return text.table(titles, rows)


def _calls(calls: Results) -> str:
    rows = [
        [name, f"{part['calls']:,}", str(part["wrong"]), f"{part['undefined']:,}"]
        for name, part in calls.items()
    ]
    return text.table(["family", "calls", "wrong", "left open"], rows)


def _ranks(ranks: Results) -> str:
    rows = [
        [
            " and ".join(map(str, part["worlds"])),
            str(part["cases"]),
            str(part["runs"]),
            *(str(part[key]) for key in ("faulty", "aborted", "hung")),
        ]
        for part in ranks.values()
    ]
    titles = ["ranks", "cases", "groups", "ranks with a fault", "aborted", "hung"]
    return text.table(titles, rows)


def _files(files: Results) -> str:
    rows = [
        [
            name.replace("_", " "),
            *(f"{part[key]:,}" for key in ("mutations", "refused", "read", "wrong")),
        ]
        for name, part in sorted(files.items())
    ]
    return text.table(["format", "mutations", "refused in one line", "read", "wrong"], rows)


def _soak(soak: Results) -> str:
    (part,) = soak.values()
    points = part["points"]
    shown = [points[i] for i in sorted({0, len(points) // 4, len(points) // 2, len(points) - 1})]
    rows = [
        [
            f"{point['step']:,}",
            f"{point['resident_mib']:.1f}",
            f"{point['log_mib']:.1f}",
            str(point["files"]),
            str(point["threads"]),
        ]
        for point in shown
    ]
    titles = ["step", "MiB of memory", "MiB of log", "open files", "threads"]
    return text.table(titles, rows, 0)


def _where(report: Results) -> str:
    about, size = report["environment"], report["size"]
    total = sum(part["cpu"] for part in report["seconds"].values())
    lines = [
        f"Measured with ncfast {about['ncfast']}, torch {about['torch']}, Python {about['python']} "
        f"on {about['processor']} ({about['system']}, {about['cores']} cores).",
        f"The whole took {total / 60:.0f} minutes of CPU time, about {total / 120:.0f} on two idle "
        f"cores; the load of the machine was {about['load']['before']:.0f} before the last stage.",
    ]
    if size["kills"] < 50:
        lines.append("These are results of the quick form.")
    return "\n".join(lines)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
