"""`build_report`: reads runs, draws, and writes report.html and the PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ncfast.experiments.report import figures, page
from ncfast.experiments.report.runs import Run, expand_directories, read_run
from ncfast.experiments.run_dir import write_atomically


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        html: the page.
        pictures: the PNG files.
    """

    html: Path
    pictures: tuple[Path, ...]


def build_report(directories: Sequence[Path], out: Path | None = None) -> Report:
    """Write report.html and PNG figures for one run or several.

    Args:
        directories: run directories made by `ncfast train`.
        out: where to write; None takes the first directory.

    Raises:
        RunDirectoryError: a directory holds no run, or one without records.
        ValueError: no directory was given.
        OSError: the output cannot be written.
    """
    if not directories:
        raise ValueError("Expected at least one run directory but got none.")
    runs = [read_run(path) for path in expand_directories(directories)]
    target = out or directories[0]
    target.mkdir(parents=True, exist_ok=True)
    labels = _labels(runs)
    drawn = {"overview": figures.overview(runs[0])}
    if len(runs) > 1:
        drawn = {"comparison": figures.comparison(runs, labels)}
    else:
        drawn |= {panel.name: figures.single(panel, runs[0]) for panel in figures.PANELS}
    pictures = []
    for name, figure in drawn.items():
        path = target / f"{name}.png"
        write_atomically(path, figures.to_bytes(figure, "png"))
        pictures.append(path)
    html = target / "report.html"
    write_atomically(html, _page(runs, labels).encode())
    return Report(html, tuple(pictures))


def _labels(runs: Sequence[Run]) -> list[str]:
    """Names that tell the runs apart: the settings in which they differ, else the folder."""
    skip = {"out", "resume", "data_dir", "download", "device"}
    settings = [run.settings for run in runs]
    differ = [
        name
        for name in settings[0]
        if name not in skip and len({str(one.get(name)) for one in settings}) > 1
    ]
    if len(runs) == 1 or not differ:
        return [run.path.name or str(run.path) for run in runs]
    return [", ".join(f"{name} {one.get(name)}" for name in differ) for one in settings]


def _page(runs: Sequence[Run], labels: Sequence[str]) -> str:
    title = runs[0].title if len(runs) == 1 else f"{len(runs)} runs"
    parts = [f"<h1>{escape(title)}</h1>"]
    if len(runs) > 1:
        parts += ["<h2>Events</h2>", page.events_table(runs, labels)]
        svg = figures.to_bytes(figures.comparison(runs, labels), "svg")
        parts += ["<h2>All runs</h2>", page.picture(svg, "accuracy, RNC1, NC2 and NC1 of all runs")]
    for run, label in zip(runs, labels, strict=True):
        if len(runs) > 1:
            parts.append(f"<h2>{escape(label)}</h2>")
        parts += _run_section(run, label, alone=len(runs) == 1)
    return page.page(f"ncfast: {title}", "".join(parts))


def _run_section(run: Run, label: str, *, alone: bool) -> list[str]:
    svg = figures.to_bytes(figures.overview(run), "svg")
    parts = [
        f'<p class="lead">{escape(page.story(run))}</p>',
        page.picture(svg, f"Accuracy, RNC1, NC2 and NC1 against the step. {page.story(run)}"),
    ]
    if alone:
        parts += ["<h2>Events</h2>", page.events_table([run], [label])]
    heading = f"Values at step {run.last_step:,}"
    parts += [f"<h3>{heading}</h3>", page.final_table(run), page.settings_table(run)]
    return parts
