"""The pages below docs/performance.md: one for each topic, with every case of its operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ncfast.benchmarks.report import growth, operations, prose, text
from ncfast.benchmarks.results_file import ran

Reports = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Topic:
    """A page.

    Attributes:
        title: its heading.
        what: one line for the list of pages.
        prefixes: names of operations, or their parts before the first dot.
    """

    title: str
    what: str
    prefixes: tuple[str, ...]


TOPICS = {
    "packages": Topic(
        "Installed packages", "scikit-learn, torchmetrics, ennemi and others", ("packages",)
    ),
    "shapes": Topic(
        "Class moments in many shapes", "36 shapes in all dtypes", ("class_moments.grid",)
    ),
    "moments": Topic(
        "Class moments", "one pass over features in memory", ("class_moments",)
    ),
    "updates": Topic("Moments that grow", "batch by batch, up to a vocabulary", ("update",)),
    "rnc1": Topic(
        "RNC1, gradients and Sigma_W", "single metrics and their parts",
        ("rnc1", "gradient", "sigma_w"),
    ),
    "metrics": Topic("Sets of metrics", "NC1 to NC5, tier by tier", ("metrics",)),
    "neighbors": Topic("Nearest neighbours", "against trees and FAISS", ("knn",)),
    "estimates": Topic(
        "Mutual information in many shapes", "up to 60,000 rows, and the engines",
        ("mutual_information.grid", "mutual_information.engines"),
    ),
    "information": Topic(
        "Information", "mutual information, entropy, the plane",
        ("mutual_information", "entropy", "plane"),
    ),
    "training": Topic(
        "Tracking and training", "tracked steps, replicas, ranks",
        ("tracker_block", "tracker_step", "tracker_cost", "replica_step", "log_point",
         "all_reduce"),
    ),
}  # fmt: skip
OVERVIEW, GROWTH, WRONG = "operations", "scaling", "wrong"
MOST_IN_FULL = 100  # results of an operation that a page lists


def name(topic: str) -> str:
    """The file name of a page."""
    return f"performance-{topic}.md"


def topic_of(operation: str) -> str:
    """The topic of an operation.

    Raises:
        LookupError: no topic has it.
    """
    for topic, about in TOPICS.items():
        if operation in about.prefixes or operation.split(".")[0] in about.prefixes:
            return topic
    raise LookupError(
        f"Expected a topic of {operation!r} but there is none. Add it to TOPICS in "
        "benchmarks/report/topics.py."
    )


def pages(reports: Reports, image: Any) -> dict[str, str]:
    """The text of every page that has something to show, by file name.

    Args:
        reports: result files by name.
        image: maps the name of a file and a kind of figure to the file name of the figure.
    """
    found = {name(OVERVIEW): _overview(reports)}
    found |= {name(topic): _page(topic, reports) for topic in TOPICS}
    found[name(GROWTH)] = _growth(reports, image)
    found[name(WRONG)] = _wrong(reports)
    return {path: content for path, content in found.items() if content}


def contents(reports: Reports, image: Any) -> dict[str, str]:
    """What each page that exists shows, by file name."""
    about = {name(OVERVIEW): "All operations at a glance, and the commands that measured them"}
    about |= {name(topic): f"{each.title}: {each.what}" for topic, each in TOPICS.items()}
    about[name(GROWTH)] = "Scaling, files larger than memory, and a projection to clusters"
    about[name(WRONG)] = "Wrong results, and contestants that did not run"
    return {path: about[path] for path in pages(reports, image)}


def _page(topic: str, reports: Reports) -> str:
    parts = []
    for operation in dict.fromkeys(name for _, name, _ in operations.every(reports)):
        if topic_of(operation) == topic:
            files = {f: r for f, r in reports.items() if operation in r.get("operations", {})}
            parts.append(_operation(operation, files))
    if not parts:
        return ""
    return "\n\n".join([f"# {TOPICS[topic].title}", prose.TOPIC, *parts]) + "\n"


def _operation(operation: str, reports: Reports) -> str:
    """An overview of each file; all contestants of the one whose cases were measured last."""
    parts = [f"## {operation}"]
    if operation in prose.OPERATIONS:
        parts.append(prose.OPERATIONS[operation])
    for file, report in reports.items():
        about, entries = report["environment"], report["operations"][operation]
        machine = f"{about['processor']}, {text.plural(about['threads'], 'thread')}"
        parts += [f"{machine}, {days(entries)} (`{file}`):", operations.overview(entries)]
    last = max(reports, key=lambda file: _latest(reports[file]["operations"][operation]))
    entries = reports[last]["operations"][operation]
    if sum(len(ran(entry)) for entry in entries) > MOST_IN_FULL:
        parts.append(f"All contestants of these {len(entries)} cases are in the file.")
    else:
        full = "\n\n".join(operations.in_full(entry) for entry in entries)
        parts.append(text.folded(f"All contestants, case by case, in `{last}`", full))
    return "\n\n".join(parts)


def _latest(entries: Any) -> str:
    return max((entry.get("day", "") for entry in entries), default="")


def days(entries: Any) -> str:
    """When cases were measured, and under what load."""
    found = sorted({entry["day"] for entry in entries if "day" in entry})
    if not found:
        return "day not recorded"
    loads = [v for e in entries for v in e.get("load", {}).values() if v is not None]
    load = f", load {min(loads):.1f} to {max(loads):.1f}" if loads else ""
    return " to ".join(dict.fromkeys((found[0], found[-1]))) + load


def _growth(reports: Reports, image: Any) -> str:
    parts = []
    for file, report in reports.items():
        if report.get("scaling"):
            parts.append(_scaled(file, report, image(file, "scaling")))
        if report.get("streaming"):
            parts += [f"## More than memory holds (`{file}`)", growth.streaming(report)]
            parts += [f"![Memory over time](images/{image(file, 'streaming')})", prose.STREAMING]
    for report in reports.values():
        if report.get("projection"):
            parts += [prose.PROJECTION, text.folded("All sizes", growth.projection(report))]
    return "\n\n".join(["# Scaling", prose.BACK, *parts]) + "\n" if parts else ""


def _scaled(file: str, report: Mapping[str, Any], figure: str) -> str:
    """One file of `ncfast.benchmarks.scaling`."""
    about = report["environment"]["processor"]
    parts = [f"## Against N, D, K and threads, {about} (`{file}`)"]
    parts += [f"![Scaling](images/{figure})", prose.SCALING, growth.exponents(report)]
    parts += ["Time with one thread over time with more:", growth.thread_gain(report)]
    parts += ["Limits of the machine by number of threads:", growth.limits(report)]
    for series in report["scaling"]:
        title = f"{series['axis']}, {text.plural(series['threads'], 'thread')}"
        parts.append(text.folded(title, growth.points(series)))
    return "\n\n".join(parts)


def _commands(name: str, report: Mapping[str, Any]) -> str:
    """The command that measured each operation."""
    known = report.get("commands", {})
    by_command: dict[str, list[str]] = {}
    for operation in report["operations"]:
        command = f"`{known[operation]} --out {name}`" if operation in known else "not recorded"
        by_command.setdefault(command, []).append(operation)
    return "\n".join(f"- {', '.join(found)}: {each}" for each, found in by_command.items())


def _measured(name: str, report: Mapping[str, Any]) -> str:
    """Limits and commands of one file of `ncfast bench`."""
    about = report["environment"]
    parts = [f"### {about['processor']}, {text.plural(about['threads'], 'thread')} (`{name}`)"]
    parts += [growth.limits(report), _commands(name, report)]
    return "\n\n".join(parts)


def _overview(reports: Reports) -> str:
    timed = {name: report for name, report in reports.items() if report.get("operations")}
    parts = ["# All operations", prose.BACK, prose.GLANCE, operations.glance(timed)]
    parts += ["Limits of the machines, and the commands that measured the cases:"]
    parts += [_measured(name, report) for name, report in timed.items()]
    return "\n\n".join(parts) + "\n" if timed else ""


def _wrong(reports: Reports) -> str:
    parts = ["# Wrong results", prose.BACK, prose.WRONG, prose.WRONG_ROWS]
    parts += [operations.wrong(reports)]
    parts += ["## Contestants that did not run, and why", operations.absent(reports)]
    return "\n\n".join(parts) + "\n" if any(r.get("operations") for r in reports.values()) else ""
