"""Builds the report of one or several runs: the page, the figures and the JSON summary."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from ncfast.experiments.report import figures, grids, page, probe_figures, sections
from ncfast.experiments.report.claims import verdicts
from ncfast.experiments.report.effects import OUTCOMES, draw_effects, effect_rows
from ncfast.experiments.report.figures import Drawing
from ncfast.experiments.report.grids import draw
from ncfast.experiments.report.group_figures import draw_events, draw_plane
from ncfast.experiments.report.runs import (
    Run,
    RunGroup,
    arms,
    expand_directories,
    read_run,
    run_groups,
)
from ncfast.experiments.report.scaling import (
    balance_rate,
    decay_law,
    laws_by_level,
    time_scales,
)
from ncfast.experiments.run_dir import write_atomically

PAGE = "report.html"


@dataclass(frozen=True)
class Report:
    """The files that a report consists of.

    Attributes:
        html: the page.
        pictures: the PNG files.
        tables: the CSV files, one for each picture.
        summary: the JSON file with events, time scales, last values and verdicts.
    """

    html: Path
    pictures: tuple[Path, ...]
    tables: tuple[Path, ...]
    summary: Path


def build_report(directories: Sequence[Path], out: Path | None = None) -> Report:
    """Write report.html, and PNG figures with their data as CSV, for one run or several.

    Args:
        directories: directories written by `ncfast train` or `ncfast sweep`.
        out: directory of the report; None uses the first of ``directories``.

    Raises:
        RunDirectoryError: a directory holds no run, or its run has no records.
        ValueError: no directory was given.
        OSError: the output cannot be written.
    """
    runs = read_runs(directories)
    target = out or directories[0]
    target.mkdir(parents=True, exist_ok=True)
    drawings = _drawings(runs, directories)
    pictures, tables = [], []
    for drawing in drawings:
        pictures.append(target / f"{drawing.name}.png")
        write_atomically(pictures[-1], figures.to_png(drawing.figure))
        tables.append(target / f"{drawing.name}.csv")
        write_atomically(tables[-1], drawing.csv())
    summary = target / "summary.json"
    write_atomically(summary, json.dumps(summarise(runs), indent=1).encode() + b"\n")
    html = target / PAGE
    write_atomically(html, _page(runs, drawings, directories, files=True).encode())
    return Report(html, tuple(pictures), tuple(tables), summary)


def build_page(
    runs: Sequence[Run], directories: Sequence[Path], reload_seconds: int | None
) -> bytes:
    """The page alone, while the runs are training; it names no files.

    Args:
        runs: the runs.
        directories: the directories that the user named.
        reload_seconds: after how many seconds a browser loads the page again; None: never.
    """
    return _page(
        runs, _drawings(runs, directories), directories, reload_seconds=reload_seconds
    ).encode()


def read_runs(directories: Sequence[Path]) -> list[Run]:
    """The runs in ``directories``; see `build_report` for the errors."""
    if not directories:
        raise ValueError("Expected at least one run directory but got none.")
    return [read_run(path) for path in expand_directories(directories)]


def _drawings(runs: Sequence[Run], directories: Sequence[Path]) -> list[Drawing]:
    return _of_one(runs[0]) if len(runs) == 1 else _of_several(runs, directories)


def _of_one(run: Run) -> list[Drawing]:
    panels = [figures.single(panel, run) for panel in figures.PANELS]
    return [figures.overview(run), *panels, *_shared([run], run)]


def _of_several(runs: Sequence[Run], directories: Sequence[Path]) -> list[Drawing]:
    groups = arms(runs, directories)
    found = [
        *([_effects(groups)] if groups else []),
        draw(grids.CURVES, groups or run_groups(runs)),
        None if groups else draw_events(runs),
    ]
    kept = [drawing for drawing in found if drawing is not None]
    return [*kept, *_shared(runs, _representative(runs), groups)]


def _effects(groups: Sequence[RunGroup]) -> Drawing | None:
    for outcome, (words, _) in OUTCOMES.items():
        drawing = draw_effects(effect_rows(groups, outcome), words, groups[0].label)
        if drawing is not None:
            return drawing
    return None


def _shared(runs: Sequence[Run], shown: Run, groups: Sequence[RunGroup] = ()) -> list[Drawing]:
    members = groups or run_groups(runs)
    found = [
        draw(grids.BOUNDS, members) if _bounded(runs) else None,
        draw(grids.information(runs), members),
        draw_plane(members),
        draw(grids.weights(runs), members),
        probe_figures.margins(shown),
        probe_figures.components(shown),
    ]
    return [drawing for drawing in found if drawing is not None]


def _bounded(runs: Sequence[Run]) -> bool:
    return any(run.last("test/bound.generalization_trace") is not None for run in runs)


def _representative(runs: Sequence[Run]) -> Run:
    """The run of largest weight decay among those that generalised; if none did, among all."""
    grown = [run for run in runs if run.events.generalisation is not None] or list(runs)
    return max(grown, key=lambda run: float(run.settings["weight_decay"]))


def _page(
    runs: Sequence[Run],
    drawings: Sequence[Drawing],
    directories: Sequence[Path],
    *,
    files: bool = False,
    reload_seconds: int | None = None,
) -> str:
    if len(runs) == 1:
        title, parts = runs[0].title, sections.one_run(runs[0], drawings[0], files=files)
        rest = drawings[1 + len(figures.PANELS) :]  # the overview shows the single panels
    else:
        title, parts = sections.several_runs(runs, directories)
        rest = drawings
    body = [f"<h1>{escape(title)}</h1>", *parts, *page.figures(rest, files=files)]
    body += sections.details(runs, directories)
    return page.page(f"ncfast: {title}", "".join(body), reload_seconds)


_TOLD = ("dataset", "model", "loss", "optimizer", "train_size", "init_scale", "lr")
_TOLD_RUN = ("weight_decay", "seed")


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """The summary as dicts, lists and numbers.

    Events that did not happen and values that are not finite are None.
    """
    scales = time_scales(runs)
    laws = {
        name: decay_law(runs, times)
        for name, times in (("tau_1", scales.tau1), ("tau_2", scales.tau2))
    }
    return {
        "versions": runs[0].config["versions"],
        "settings": {name: runs[0].settings.get(name) for name in _TOLD},
        "eps_2": scales.eps2,
        "power laws of weight decay": {
            name: None if law is None else asdict(law) for name, law in laws.items()
        },
        "power laws of tau_2 by level of RNC1": [
            {"eps_2": eps, **asdict(law)} for eps, law in laws_by_level(runs)
        ],
        "verdicts": [asdict(verdict) for verdict in verdicts(runs)],
        "runs": [
            _run(run, one, two)
            for run, one, two in zip(runs, scales.tau1, scales.tau2, strict=True)
        ],
    }


def _run(run: Run, tau1: int | None, tau2: int | None) -> dict[str, Any]:
    rate = balance_rate(run)
    last = {
        key: value if math.isfinite(value) else None
        for key, value in run.records[-1].items()
        if key != "step"
    }
    found = {name: run.settings.get(name) for name in _TOLD_RUN}
    found |= {"run": run.path.name, "events": asdict(run.events), "tau_1": tau1, "tau_2": tau2}
    if rate is not None:
        found["balancedness rate over 2 eta lambda"] = asdict(rate)
    return {**found, "last step": run.last_step, "last": last}
