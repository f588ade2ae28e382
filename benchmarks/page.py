"""Writes docs/performance.md and its figures from the JSON files of benchmarks/results.

    python -m ncfast.benchmarks.page

All content of the page comes from these files. The page uses every file with the schema of
`ncfast bench`, `scaling`, `streaming` or `projection`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ncfast.benchmarks import results_file, roofline
from ncfast.benchmarks.report import figures, growth, operations, prose, text

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE, IMAGES = ROOT / "benchmarks/results", ROOT / "docs/performance.md", "images"
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


def limits(report: Mapping[str, Any]) -> str:
    """The measured limits of the machine."""
    found = report["ceilings"]
    rows = [
        [count, *(f"{best[key] / 1e9:.1f}" for key in keys)]
        for keys in [("read_bytes_per_s", "copy_bytes_per_s", "gather_bytes_per_s",
                      "gemm_flops_per_s")]
        for count, best in (found.get("by_threads") or {"GPU": found.get("cuda", {})}).items()
        if best
    ]  # fmt: skip
    titles = ["threads", "read, GB/s", "copy, GB/s", "gather of 2 KiB rows, GB/s"]
    return text.table([*titles, "float32 product, GFLOP/s"], rows)


def commands(name: str, report: Mapping[str, Any]) -> str:
    """The command that measured each operation."""
    known = report.get("commands", {})
    by_command: dict[str, list[str]] = {}
    for operation in report["operations"]:
        command = f"`{known[operation]} --out {name}`" if operation in known else "not recorded"
        by_command.setdefault(command, []).append(operation)
    return "\n".join(f"- {', '.join(found)}: {each}" for each, found in by_command.items())


def measured(name: str, report: Mapping[str, Any]) -> str:
    """One file of `ncfast bench`."""
    about = report["environment"]
    parts = [f"## {about['processor']}, {text.plural(about['threads'], 'thread')} (`{name}`)"]
    for operation, entries in report["operations"].items():
        full = "\n\n".join(operations.in_full(entry) for entry in entries)
        parts += [f"### {operation}", operations.overview(entries)]
        parts.append(text.folded("All contestants, case by case", full))
    parts += ["### Limits of the machine", "Measured in the latest call:", limits(report)]
    if roofline.points(report):
        parts.append(f"![Roofline]({IMAGES}/{image(name, 'roofline')})")
        parts.append(prose.ROOFLINE)
    ran = commands(name, report)
    parts += ["Commands, possibly run in parts with `--ops` and `--cases`:", ran]
    return "\n\n".join(parts)


def scaled(name: str, report: Mapping[str, Any]) -> str:
    """One file of `ncfast.benchmarks.scaling`."""
    cores = report["environment"]["processor"]
    parts = [f"## Scaling, {cores} (`{name}`)", f"![Scaling]({IMAGES}/{image(name, 'scaling')})"]
    parts += [prose.SCALING, growth.exponents(report)]
    parts += ["Time with one thread over time with more:", growth.thread_gain(report)]
    parts += ["Limits of the machine by number of threads:", limits(report)]
    for series in report["scaling"]:
        title = f"{series['axis']}, {text.plural(series['threads'], 'thread')}"
        parts.append(text.folded(title, growth.points(series)))
    return "\n\n".join(parts)


def streamed(name: str, report: Mapping[str, Any]) -> str:
    """One file of `ncfast.benchmarks.streaming`."""
    parts = [f"## More than memory holds (`{name}`)", growth.streaming(report)]
    parts += [f"![Memory over time]({IMAGES}/{image(name, 'streaming')})", prose.STREAMING]
    return "\n\n".join(parts)


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


def render(reports: Reports) -> str:
    """The page."""
    timed = with_part(reports, "operations")
    parts = [prose.HEAD, "## At a glance", prose.GLANCE, operations.glance(timed)]
    parts += ["## Where ncfast is slower", operations.losses(timed)]
    parts += ["## Wrong results", prose.WRONG, operations.wrong_counts(timed)]
    parts.append(text.folded("All wrong results", operations.wrong(timed)))
    parts += [measured(name, report) for name, report in timed.items()]
    parts += [scaled(name, report) for name, report in with_part(reports, "scaling").items()]
    parts += [streamed(name, report) for name, report in with_part(reports, "streaming").items()]
    for report in with_part(reports, "projection").values():
        parts += [prose.PROJECTION, text.folded("All sizes", growth.projection(report))]
    parts += ["## Not measured", unmeasured(reports)]
    parts.append(text.folded("Contestants that did not run, and why", operations.absent(timed)))
    parts += [prose.METHOD, prose.RERUN, "## Machines and versions", environments(reports)]
    parts.append("## Other pages")
    parts.append(
        "\n".join(f"- [{page}]({page}): {what}" for page, what in prose.OTHER_PAGES.items())
    )
    return "\n\n".join(parts) + "\n"


def draw(reports: Reports, folder: Path) -> None:
    """Draw all figures of the page."""
    for name, report in with_part(reports, "operations").items():
        roofline.figure(report, folder / image(name, "roofline"))
    for part, function in (("scaling", figures.scaling), ("streaming", figures.streaming)):
        for name, report in with_part(reports, part).items():
            function(report, folder / image(name, part))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=PAGE)
    given = parser.parse_args(argv)
    reports = load(given.results)
    (given.out.parent / IMAGES).mkdir(parents=True, exist_ok=True)
    draw(reports, given.out.parent / IMAGES)
    given.out.write_text(render(reports))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
