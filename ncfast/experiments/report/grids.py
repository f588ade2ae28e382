"""Draws grids of panels: one column per group of runs, one row per quantity, seeds as bands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ncfast.experiments.report.figures import (
    LATE,
    PANELS,
    Curve,
    Drawing,
    Panel,
    both,
    draw_curves,
    events_of,
    finish_axis,
    lines_of,
    mark_events,
    rows_of,
)
from ncfast.experiments.report.runs import Run, RunGroup, band
from ncfast.experiments.report.theme import (
    ERROR,
    ESTIMATE,
    PROJECTED,
    STYLE,
    TEST,
    TRACE,
    TRAIN,
)
from ncfast.experiments.report.tiles import (
    FONT,
    SMALL,
    WIDE,
    Tile,
    TileRow,
    alternative,
    tile_axes,
)

HEAD = ("family", "quantity", "step", "mean", "low", "high")
MAX_COLUMNS = 24


@dataclass(frozen=True)
class Grid:
    """The description of a grid.

    Attributes:
        name: name of its file.
        title: its heading.
        caption: explains the grid, whatever it holds.
        panels: its rows; those without a curve are left out.
        notes: a pattern of keys, and a sentence that the caption has if a curve of such a key is
            drawn.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    notes: tuple[tuple[str, str], ...] = ()


def draw(grid: Grid, run_groups: Sequence[RunGroup]) -> Drawing | None:
    """The grid for at most `MAX_COLUMNS` groups; None if no group has any of its curves."""
    shown = pick(run_groups)
    panels = [p for p in grid.panels if any(_has(f, c) for f in shown for c in p.curves)]
    if not panels:
        return None
    rows: list[Sequence[Any]] = []
    with rc_context(STYLE):
        size = (2.2 + 2.5 * max(len(shown), 2), 0.9 + 1.75 * len(panels))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(panels), len(shown), sharex=True, sharey="row", squeeze=False)
        for row, panel in zip(axes, panels, strict=True):
            for axis, family in zip(row, shown, strict=True):
                draw_curves(axis, panel, family)
                rows += [(family.label, *row) for row in rows_of(panel, family)]
                finish_axis(axis, panel, _first(shown), linear=_linear(shown))
            for axis, family in zip(row, shown, strict=True):
                mark_events(axis, family.runs, labelled=False)
                axis.set_ylabel(panel.label if axis is row[0] else "")
        for axis, family in zip(axes[0], shown, strict=True):
            axis.set_title(_heading(family).replace(", ", ",\n"), fontsize=9)
        for axis in axes[-1]:
            axis.set_xlabel("step")
        for row in axes:
            _legend(row)
    tiles = [
        _tile_row(panel, shown, [axis.get_ylim() for axis in row])
        for panel, row in zip(panels, axes, strict=True)
    ]
    return Drawing(
        grid.name, grid.title, _caption(grid, shown, len(run_groups)), figure, HEAD, rows, tiles
    )


def _first(shown: Sequence[RunGroup]) -> int:
    return min(run.first_step for family in shown for run in family.runs)


def _linear(shown: Sequence[RunGroup]) -> bool:
    """Whether a run starts late because it branched from another: steps on a linear axis."""
    return any(run.first_step >= LATE for family in shown for run in family.runs)


def _legend(row: Sequence[Axes]) -> None:
    found = {
        label: handle
        for axis in row
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    row[-1].legend(  # to the right of the row, where it covers no curve
        list(found.values()),
        list(found),
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        fontsize=7.5,
        handlelength=1.6,
    )


def _caption(grid: Grid, shown: Sequence[RunGroup], total: int) -> str:
    keys = {c.key for p in grid.panels for c in p.curves if any(_has(f, c) for f in shown)}
    told = [grid.caption]
    if len(shown) < total:
        told.append(f"{len(shown)} of {total} groups of runs are drawn.")
    several = any(len(family.runs) > 1 for family in shown)
    if several:
        told.append(
            "Lines are means over the seeds, and bands reach from the smallest value to "
            "the largest."
        )
    told += [note for form, note in grid.notes if any(re.search(form, key) for key in keys)]
    events = events_of([run for family in shown for run in family.runs])
    if events:
        each = ", one for each seed" if several else ""
        told.append(f"Vertical lines{each}: {', '.join(events)}.")
    return " ".join(part for part in told if part)


def _tile_row(
    panel: Panel, shown: Sequence[RunGroup], limits: Sequence[tuple[float, float]]
) -> TileRow:
    last = max(run.last_step for family in shown for run in family.runs)
    small = len(shown) > 2
    found: dict[str, tuple[str, str, bool]] = {}
    tiles = []
    levels = max(len(events_of(family.runs)) for family in shown)
    for family, limit in zip(shown, limits, strict=True):
        lines = lines_of(panel, family)
        marks = events_of(family.runs)
        with tile_axes(levels, SMALL if small else WIDE) as axis:
            draw_curves(axis, panel, family)
            finish_axis(axis, panel, _first(shown), linear=_linear(shown))
            axis.set_xlabel("step")
            end = last * 1.1 if axis.get_xscale() == "symlog" else last
            axis.set_xlim(right=max(end, _first(shown) + 1))
            axis.set_ylim(limit)
            mark_events(axis, family.runs, labelled=True, size=FONT)
        alone = len(shown) == 1 and len(family.runs) == 1
        name = panel.label if alone else f"{panel.label}, {_heading(family)}"
        tiles.append(
            Tile("" if alone else _heading(family), axis, alternative(name, lines, marks), lines)
        )
        found |= {line.label: (line.label, line.colour, line.dashed) for line in lines}
    return TileRow(panel.label.replace("\n", " "), list(found.values()), tiles, small)


def pick(run_groups: Sequence[RunGroup]) -> Sequence[RunGroup]:
    """All groups, or `MAX_COLUMNS` evenly spaced ones that include the first and the last."""
    if len(run_groups) <= MAX_COLUMNS:
        return run_groups
    index = np.linspace(0, len(run_groups) - 1, MAX_COLUMNS).round().astype(int)
    return [run_groups[i] for i in index]


def _heading(family: RunGroup) -> str:
    seeds = "1 seed" if len(family.runs) == 1 else f"{len(family.runs)} seeds"
    return f"{family.label} ({seeds})"


def _has(family: RunGroup, curve: Curve) -> bool:
    return band(family, curve.key) is not None


CURVES = Grid(
    "curves",
    "Accuracy and collapse",
    "",
    PANELS,
    (
        ("rnc1.max", "RNC1 (max norm) is Tr(Σ_W) over the largest squared norm."),
        ("rnc1.mean", "RNC1 (mean norm, dotted) is Tr(Σ_W) over the squared mean norm."),
    ),
)
BOUNDS = Grid(
    "bounds",
    "The generalisation bound over the measured error",
    "Error on unseen data, and the bound of Theorem 3.2 from the class moments of unseen features. "
    "A bound above 1 is empty: no error is above 1.",
    (
        Panel(
            "bounds",
            "error, bound",
            (
                Curve("test/error", "test error", ERROR),
                Curve("test/bound.generalization_trace", "bound, trace", TRACE),
                Curve("test/bound.generalization", "bound, projected", PROJECTED),
            ),
            log=True,
        ),
    ),
    (
        ("generalization_trace$", "The trace form uses the total variance of a class."),
        (
            "bound.generalization$",
            "The projected form uses the variance of a class along the decision direction.",
        ),
    ),
)
_NORM = Panel("norm", "weight norm", (Curve("weight.norm", "norm", ERROR),), log=True)
_BALANCE = Panel(
    "balancedness",
    "balancedness",
    (
        Curve("balancedness", "relative", TRAIN),
        Curve("balancedness.absolute", "absolute", TRACE),
    ),
    log=True,
)


def weights(runs: Iterable[Run]) -> Grid:
    """The grid of the weight norm and, if it is logged, of the balancedness of the last layers."""
    balance = any("balancedness" in record for run in runs for record in run.records)
    caption = "Global L2 norm of all parameters"
    if not balance:
        return Grid("weights", "Weights", f"{caption}.", (_NORM,))
    about = (
        ", and the balancedness gap of the last two layers, "
        "norm(W_L^T W_L - W_{L-1} W_{L-1}^T): absolute, and relative to the sum of their norms."
    )
    return Grid("weights", "Weights", caption + about, (_NORM, _BALANCE))


def information(runs: Iterable[Run]) -> Grid:
    """The grid of superfluous information: bounds for each noise level, and estimates if logged."""
    prefix = "test/bound.superfluous@"
    keys = {key for run in runs for record in run.records for key in record}
    sigmas = sorted({key.removeprefix(prefix) for key in keys if key.startswith(prefix)}, key=float)
    return Grid(
        "information",
        "Superfluous information I(Z;X) − I(Z;Y)",
        "In nats, for features with Gaussian noise of σ times the largest norm (Theorem 3.4).",
        tuple(_noise_panel(sigma) for sigma in sigmas),
        (
            ("bound.superfluous@", "The log-det bound is drawn solid."),
            ("superfluous_trace@", "The looser trace bound is dotted."),
            (
                "information.superfluous@",
                "The nearest-neighbor estimate, with its standard error, uses four principal "
                "components of unseen features. It is lower by the information in the other "
                "components.",
            ),
        ),
    )


def _noise_panel(sigma: str) -> Panel:
    return Panel(
        f"information{sigma}",
        f"nats, σ = {sigma}",
        (
            *both(f"bound.superfluous@{sigma}", ", log-det"),
            Curve(f"train/bound.superfluous_trace@{sigma}", "train, trace", TRAIN, dashed=True),
            Curve(f"test/bound.superfluous_trace@{sigma}", "test, trace", TEST, dashed=True),
            Curve(f"test/information.superfluous@{sigma}", "test, estimate", ESTIMATE),
        ),
        log=True,
    )
