"""Draws grids of panels: one column per group of runs, one row per quantity, seeds as bands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ncfast.experiments.report.figures import (
    PANELS,
    STYLE,
    TEST,
    TRAIN,
    Curve,
    Drawing,
    Panel,
    both,
    finish_axis,
)
from ncfast.experiments.report.runs import Band, Run, RunGroup, band

HEAD = ("family", "quantity", "step", "mean", "low", "high")
MAX_COLUMNS = 6


@dataclass(frozen=True)
class Grid:
    """The description of a grid: the name of its file, heading, caption, and the rows."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]


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
                rows += _panel(axis, panel, family)
            for axis in row:
                finish_axis(axis, panel)
                axis.set_ylabel(panel.label if axis is row[0] else "")
                axis.xaxis.set_major_formatter(FuncFormatter(_short))
        for axis, family in zip(axes[0], shown, strict=True):
            axis.set_title(f"{family.label}  ({_seeds(family)})", fontsize=9)
        for axis in axes[-1]:
            axis.set_xlabel("step")
        for row in axes:
            # to the right of the row, where it covers no curve
            row[-1].legend(
                *row[0].get_legend_handles_labels(),
                loc="upper left",
                bbox_to_anchor=(1.0, 1.0),
                fontsize=7.5,
                handlelength=1.6,
            )
    return Drawing(grid.name, grid.title, grid.caption, figure, HEAD, rows)


def _short(step: float, _: int) -> str:
    return f"{step / 1000:g}k" if step >= 1000 else f"{step:g}"


def pick(run_groups: Sequence[RunGroup]) -> Sequence[RunGroup]:
    """All groups, or `MAX_COLUMNS` evenly spaced ones that include the first and the last."""
    if len(run_groups) <= MAX_COLUMNS:
        return run_groups
    index = np.linspace(0, len(run_groups) - 1, MAX_COLUMNS).round().astype(int)
    return [run_groups[i] for i in index]


def _seeds(family: RunGroup) -> str:
    return "1 seed" if len(family.runs) == 1 else f"{len(family.runs)} seeds"


def _has(family: RunGroup, curve: Curve) -> bool:
    return band(family, curve.key) is not None


def _panel(axis: Axes, panel: Panel, family: RunGroup) -> list[Sequence[Any]]:
    rows: list[Sequence[Any]] = []
    for curve in panel.curves:
        found = band(family, curve.key)
        if found is None:
            continue
        style = ":" if curve.dashed else "-"
        marker = "o" if len(found.steps) < 30 else None
        axis.plot(
            found.steps,
            found.mean,
            style,
            color=curve.colour,
            label=curve.label,
            marker=marker,
            markersize=2.5,
        )
        axis.fill_between(found.steps, found.low, found.high, color=curve.colour, alpha=0.2, lw=0)
        _error_bars(axis, family, curve, found)
        rows += [
            (family.label, curve.key, int(step), *values)
            for step, *values in zip(
                found.steps,
                found.mean.tolist(),
                found.low.tolist(),
                found.high.tolist(),
                strict=True,
            )
        ]
    _mark_events(axis, family)
    return rows


def _error_bars(axis: Axes, family: RunGroup, curve: Curve, found: Band) -> None:
    """Draw the standard errors of an estimate, averaged over the seeds, if the log has them."""
    name, _, noise = curve.key.partition("@")
    errors = band(family, f"{name}_stderr@{noise}")
    if errors is not None and len(errors.steps) == len(found.steps):
        axis.errorbar(
            found.steps, found.mean, yerr=errors.mean, fmt="none", color=curve.colour, capsize=2
        )


def _mark_events(axis: Axes, family: RunGroup) -> None:
    """Mark the events of every seed by thin lines."""
    from ncfast.experiments.report.figures import EVENT_COLOURS

    for name, colour in EVENT_COLOURS.items():
        for run in family.runs:
            step = getattr(run.events, name)
            if step is not None:
                axis.axvline(step, color=colour, linewidth=0.7, linestyle=(0, (4, 2)), alpha=0.6)


ERROR, TRACE, PROJECTED, ESTIMATE = "#444444", "#b3588f", "#5b4ea1", "#3c8d54"

CURVES = Grid(
    "curves",
    "Accuracy and collapse",
    "Mean and range over the seeds. RNC1 is divided by the largest squared norm (solid) or by the "
    "squared mean norm (dotted). Vertical lines mark the fit (blue), generalisation (orange) and "
    "collapse (green) of each seed.",
    PANELS,
)
BOUNDS = Grid(
    "bounds",
    "The generalisation bound over the measured error",
    "Error on unseen data, and the bound of Theorem 3.2 from the class moments of unseen features. "
    "The trace form uses the total variance of a class, the projected form its variance along the "
    "decision direction. A bound above 1 carries no information.",
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
        "In nats, for features with Gaussian noise of σ times the largest norm (Theorem 3.4). "
        "Both splits have the log-det bound and the looser trace bound. The nearest-neighbor "
        "estimate, with its standard error, uses four principal components of unseen features. It "
        "is lower by the information in the other components.",
        tuple(_noise_panel(sigma) for sigma in sigmas),
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
