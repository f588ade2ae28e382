"""Figures of a single run, and what all figures of the report share."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray
from PIL import Image

from ncfast.experiments.report.runs import Band, Run, RunGroup, alone, band
from ncfast.experiments.report.theme import (
    EVENT_COLOURS,
    EVENT_DASHES,
    QUIET,
    STYLE,
    TEST,
    TRAIN,
)
from ncfast.experiments.report.tiles import FONT, Line, Tile, TileRow, alternative, tile_axes


@dataclass(frozen=True)
class Drawing:
    """A figure of the report: small pictures on the page, one PNG file and one CSV file.

    Attributes:
        name: name of the files, without suffix.
        title: heading on the page.
        caption: explains what the figure shows and how to read it.
        figure: the picture of the PNG file.
        head: column names of the CSV file.
        rows: the data that the picture shows.
        tiles: the same panels as they stand on the page, in rows.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    head: Sequence[str]
    rows: list[Sequence[Any]] = field(default_factory=list)
    tiles: Sequence[TileRow] = ()

    def csv(self) -> bytes:
        """The data as a CSV file."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.head)
        writer.writerows(self.rows)
        return buffer.getvalue().encode()


_MAX_POINTS = 1500
LATE = 100  # a run whose log starts later branched from another run
_HEAD = ("quantity", "step", "value")


@dataclass(frozen=True)
class Curve:
    """A curve of a panel: the key in the log, its label, and its line style."""

    key: str
    label: str
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """A panel: name of its file, label, curves, and whether its y axis is logarithmic."""

    name: str
    label: str
    curves: tuple[Curve, ...]
    log: bool


def both(metric: str, label: str = "") -> tuple[Curve, ...]:
    """The curves of a metric on both splits."""
    return (
        Curve(f"train/{metric}", f"train{label}", TRAIN),
        Curve(f"test/{metric}", f"test{label}", TEST),
    )


PANELS = (
    Panel("accuracy", "accuracy", both("accuracy"), log=False),
    Panel(
        "rnc1",
        "RNC1",
        (
            *both("rnc1.max", ", max norm"),
            Curve("train/rnc1.mean", "train, mean norm", TRAIN, dashed=True),
            Curve("test/rnc1.mean", "test, mean norm", TEST, dashed=True),
        ),
        log=True,
    ),
    Panel("nc2", "NC2, condition number\nof class means", both("nc2.condition"), log=True),
    Panel("nc1", "NC1, Tr Σ_W / Tr Σ_B", both("nc1.quotient"), log=True),
)


def overview(run: Run) -> Drawing:
    """All panels of one run that have a curve, with the events marked."""
    panels = [panel for panel in PANELS if lines_of(panel, alone(run))]
    names = ", ".join(panel.label.replace("\n", " ") for panel in panels)
    happened = [name for name in EVENT_COLOURS if getattr(run.events, name) is not None]
    caption = f"Against the step: {names}."
    if happened:
        caption += f" Vertical lines: {', '.join(happened)}."
    rows = [row for panel in panels for row in _rows(panel, run)]
    tiles = [_tile(panel, run) for panel in panels]
    figure = _figure(panels, run, height=2.1)
    return Drawing("overview", run.title, caption, figure, _HEAD, rows, tiles)


def single(panel: Panel, run: Run) -> Drawing:
    """One panel of one run, with the events marked, for a PNG file."""
    figure = _figure([panel], run, height=3.2)
    return Drawing(panel.name, panel.label, "", figure, _HEAD, _rows(panel, run))


def _figure(panels: Sequence[Panel], run: Run, height: float) -> Figure:
    """The panels of a run below each other, ``height`` inches each."""
    number = max(len(panels), 1)
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, height * number), layout="constrained")
        axes = figure.subplots(number, 1, sharex=True, squeeze=False)[:, 0]
        for axis, panel in zip(axes, panels, strict=False):
            _draw(axis, panel, run, labelled=axis is axes[0])
            axis.set_ylabel(panel.label)
            if axis.get_legend_handles_labels()[0]:
                axis.legend(loc="best", fontsize=8, ncols=2 if len(panel.curves) > 2 else 1)
        axes[-1].set_xlabel("step")
    return figure


def _tile(panel: Panel, run: Run) -> TileRow:
    lines = lines_of(panel, alone(run))
    marks = events_of([run])
    with tile_axes(len(marks)) as axis:
        _draw(axis, panel, run, labelled=True, size=FONT)
        axis.set_xlabel("step")
    return TileRow(
        panel.label.replace("\n", " "),
        [(line.label, line.colour, line.dashed) for line in lines],
        [Tile("", axis, alternative(panel.label, lines, marks), lines)],
    )


def _rows(panel: Panel, run: Run) -> list[Sequence[Any]]:
    return [row[:3] for row in rows_of(panel, alone(run))]


def _draw(axis: Axes, panel: Panel, run: Run, *, labelled: bool, size: float = 8) -> None:
    draw_curves(axis, panel, alone(run))
    finish_axis(axis, panel, run.first_step, linear=run.first_step >= LATE)
    mark_events(axis, [run], labelled=labelled, size=size)


def lines_of(panel: Panel, group: RunGroup) -> list[Line]:
    """The curves of a panel that a group of runs has."""
    return [
        Line(c.label, c.colour, c.dashed, found.steps, found.mean, found.low, found.high)
        for c in panel.curves
        if (found := band(group, c.key)) is not None
    ]


def rows_of(panel: Panel, group: RunGroup) -> list[Sequence[Any]]:
    """The data of a panel: key, step, mean, smallest and largest value over the seeds."""
    return [
        (c.key, *values)
        for c in panel.curves
        if (found := band(group, c.key)) is not None
        for values in zip(
            *(part.tolist() for part in (found.steps, found.mean, found.low, found.high)),
            strict=True,
        )
    ]


def draw_curves(axis: Axes, panel: Panel, group: RunGroup) -> None:
    """Draw the curves of a panel, with bands over the seeds and bars of standard errors."""
    for curve in panel.curves:
        found = band(group, curve.key)
        if found is None:
            continue
        index = thinned(found.steps)
        steps, mean, low, high = (
            part[index] for part in (found.steps, found.mean, found.low, found.high)
        )
        look: dict[str, Any] = {"color": curve.colour, "label": curve.label, "markersize": 2.5}
        marker = "o" if len(found.steps) < 30 else ""
        axis.plot(steps, mean, marker + (":" if curve.dashed else "-"), **look)
        if len(group.runs) > 1:
            axis.fill_between(steps, low, high, color=curve.colour, alpha=0.2, linewidth=0)
        _error_bars(axis, group, curve, found)
        if curve.key.startswith("test/bound.generalization"):
            axis.axhline(1, color=QUIET, linewidth=0.8)  # a bound above this line is empty


def _error_bars(axis: Axes, group: RunGroup, curve: Curve, found: Band) -> None:
    """Draw the standard errors of an estimate, averaged over the seeds, if the log has them."""
    name, _, noise = curve.key.partition("@")
    errors = band(group, f"{name}_stderr@{noise}")
    if errors is not None and len(errors.steps) == len(found.steps):
        axis.errorbar(
            found.steps, found.mean, yerr=errors.mean, fmt="none", color=curve.colour, capsize=2
        )


def finish_axis(axis: Axes, panel: Panel, first: int = 0, *, linear: bool = False) -> None:
    """Set scales, ticks and labels of a panel after its curves are drawn.

    Args:
        axis: the panel.
        panel: its description.
        first: the first step of the runs.
        linear: whether the axis of the steps is linear, from ``first`` on, and not logarithmic.
    """
    if linear:
        axis.set_xlim(left=first)
    else:  # linear below 1, so that step 0 can be shown
        axis.set_xscale("symlog", linthresh=1, linscale=0.35)
        axis.set_xlim(left=0)
    axis.xaxis.set_major_formatter(FuncFormatter(short_step))
    if panel.log and np.isfinite(axis.dataLim.minposy):  # a logarithmic axis needs a positive value
        axis.set_yscale("log")
        low, high = axis.get_ylim()
        if high / low < 300:  # below about two decades, powers of ten give too few ticks
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        else:
            axis.yaxis.set_major_formatter(FuncFormatter(power_of_ten))
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_ylim(-0.02, 1.04)


def short_step(step: float, _: object = None) -> str:
    """A tick label of a step: 100, 1k, 10k, 1M."""
    if step >= 1e6:
        return f"{step / 1e6:g}M"
    return f"{step / 1000:g}k" if step >= 1000 else f"{step:g}"


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power_of_ten(value: float, _: object = None) -> str:
    """A tick label of a logarithmic axis: 10⁻²; plain text, so that the page can select it."""
    if value <= 0:
        return ""
    exponent = round(float(np.log10(value)))
    return f"{value:g}" if 0 <= exponent <= 2 else f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def events_of(runs: Sequence[Run]) -> dict[str, list[int]]:
    """The steps of each event that happened in one of the runs, by the name of the event."""
    found = {
        name: sorted(step for run in runs if (step := getattr(run.events, name)) is not None)
        for name in EVENT_COLOURS
    }
    return {name: steps for name, steps in found.items() if steps}


def mark_events(axis: Axes, runs: Sequence[Run], *, labelled: bool, size: float = 8) -> None:
    """Mark the events of every run by lines; dash and label tell them apart without colour.

    Args:
        axis: the panel; its limits must be final.
        runs: one run, or the seeds of a group.
        labelled: whether each event gets its name, and the step of a single run, above the panel.
        size: size of the labels, in points.
    """
    width = 1.2 if len(runs) == 1 else 0.7
    left, right = axis.get_xlim()
    for level, (name, steps) in enumerate(events_of(runs).items()):
        look: dict[str, Any] = {"color": EVENT_COLOURS[name], "linestyle": EVENT_DASHES[name]}
        for step in steps:
            axis.axvline(step, linewidth=width, **look)
        if not labelled:
            continue
        at = steps[len(steps) // 2]
        ends = axis.transData.transform([(left, 1), (at, 1), (right, 1)])[:, 0]
        to_the_right = ends[1] - ends[0] < 0.45 * (ends[2] - ends[0])
        text = f"{name} {at:,}" if len(runs) == 1 else name
        axis.annotate(
            text,
            (at, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3 if to_the_right else -3, 2 + 1.2 * size * level),
            textcoords="offset points",
            ha="left" if to_the_right else "right",
            fontsize=size,
            color=EVENT_COLOURS[name],
        )
        axis.annotate(  # the line goes on to its label
            "",
            (at, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2 + 1.2 * size * (level + 0.8)),
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "linewidth": width, "shrinkA": 0, "shrinkB": 0, **look},
        )


def thinned(steps: NDArray[np.int64]) -> NDArray[np.intp]:
    """Indices of about `_MAX_POINTS` steps, evenly spaced on a log axis, with first and last."""
    if len(steps) <= _MAX_POINTS:
        return np.arange(len(steps))
    marks = np.geomspace(1, steps[-1] + 1, _MAX_POINTS) - 1
    return np.unique(np.searchsorted(steps, marks).clip(max=len(steps) - 1))


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG file; a palette reduces it to a third of its size."""
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=150)
    smaller = io.BytesIO()
    with Image.open(buffer) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            smaller, "png", optimize=True
        )
    return smaller.getvalue()
