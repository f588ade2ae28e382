"""Writes docs/performance.md, the pages below it and their figures from benchmarks/results.

    python -m ncfast.benchmarks.page

All content of the pages comes from these files. The pages use every file with the schema of
`ncfast bench`, `scaling`, `streaming` or `projection`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ncfast.benchmarks import aims, first_screen, results_file, roofline
from ncfast.benchmarks.report import figures, operations, prose, text, topics

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE, IMAGES = ROOT / "benchmarks/results", ROOT / "docs/performance.md", "images"
ROWS_IMAGE = "performance-rows.png"
Reports = Mapping[str, Mapping[str, Any]]


def load(folder: Path) -> Reports:
    """All files with this schema, by name."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        report = json.loads(path.read_text())
        if isinstance(report, dict) and report.get("schema") == results_file.SCHEMA:
            found[path.name] = report
    return found


def with_part(reports: Reports, part: str) -> Reports:
    """The files that have this part."""
    return {name: report for name, report in reports.items() if report.get(part)}


def image(name: str, kind: str) -> str:
    """The file name of a figure."""
    return f"performance-{kind}-{Path(name).stem}.png"


def environments(reports: Reports) -> str:
    """A table of machine, versions and threads, with one column per file."""
    files = {name: report for name, report in reports.items() if "environment" in report}
    keys: dict[str, None] = {}
    for report in files.values():
        keys.update(dict.fromkeys(report["environment"]))
    rows = [[key, *(_value(r["environment"].get(key)) for r in files.values())] for key in keys]
    return text.table(["", *(f"`{name}`" for name in files)], rows, 9)


def _value(value: object) -> str:
    if isinstance(value, dict):  # before and after a run
        return "; ".join(f"{name} {_value(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(f"{part:.0f}" for part in value)
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value if value is not None else "none")


def figures_of(reports: Reports) -> str:
    """The rows of the first screen, the largest roofline, and the first scaling."""
    timed = with_part(reports, "operations")
    parts = []
    if first_screen.found(timed):
        parts.append(f"![Time over that of ncfast]({IMAGES}/{ROWS_IMAGE})")
        parts.append(prose.ROWS_FIGURE)
    if most := most_points(timed):
        parts += [f"![Roofline]({IMAGES}/{image(most, 'roofline')})", prose.ROOFLINE]
    for name in list(with_part(reports, "scaling"))[:1]:
        parts += [f"![Scaling]({IMAGES}/{image(name, 'scaling')})", prose.SCALING_FIGURE]
    return "\n\n".join(parts)


def most_points(timed: Reports) -> str:
    """The file with the most points of a roofline; "" if none has any."""
    counts = {name: len(roofline.points(report)) for name, report in timed.items()}
    most = max(counts, key=lambda name: counts[name], default="")
    return most if counts.get(most) else ""


def unmeasured(reports: Reports) -> str:
    """What the files do not cover."""
    known = [r["environment"] for r in reports.values() if "environment" in r]
    lines = []
    if not any(about.get("gpu") for about in known):
        lines.append("- GPUs: no file comes from a machine with a GPU.")
    processors = sorted({about["processor"] for about in known})
    lines.append(f"- Other processors than {', '.join(processors) or 'none'}.")
    lines.append("- Several machines: the projection is computed, not measured.")
    return "\n".join(lines)


def render(reports: Reports) -> dict[str, str]:
    """The text of docs/performance.md and of the pages below it, by file name."""
    timed = with_part(reports, "operations")
    parts = [prose.HEAD, prose.ROWS, first_screen.table(timed)]
    parts += first_screen.below(timed)
    parts += ["## In pictures", figures_of(reports)]
    parts += ["## Where ncfast is slower", prose.LOSSES, operations.losses(timed)]
    parts += ["## Aims", prose.AIMS, aims.table(timed)]
    parts += ["## Wrong results", prose.WRONG, operations.wrong_counts(timed)]
    parts += ["## Not measured", unmeasured(reports)]
    parts += [prose.METHOD, prose.RERUN, "## Machines and versions", environments(reports)]
    parts += ["## Case by case", _list(topics.contents(reports, image))]
    parts += ["## Other pages", _list(prose.OTHER_PAGES)]
    return {PAGE.name: "\n\n".join(parts) + "\n"} | topics.pages(reports, image)


def _list(pages: Mapping[str, str]) -> str:
    return "\n".join(f"- [{page}]({page}): {what}" for page, what in pages.items())


def draw(reports: Reports, folder: Path) -> None:
    """Draw all figures of the page."""
    timed = with_part(reports, "operations")
    first_screen.figure(timed, folder / ROWS_IMAGE)
    if most := most_points(timed):
        roofline.figure(timed[most], folder / image(most, "roofline"))
    for part, function in (("scaling", figures.scaling), ("streaming", figures.streaming)):
        for name, report in with_part(reports, part).items():
            function(report, folder / image(name, part))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages and their figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=PAGE.parent, help="folder of the pages")
    given = parser.parse_args(argv)
    reports = load(given.results)
    (given.out / IMAGES).mkdir(parents=True, exist_ok=True)
    draw(reports, given.out / IMAGES)
    for name, content in render(reports).items():
        (given.out / name).write_text(content)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
