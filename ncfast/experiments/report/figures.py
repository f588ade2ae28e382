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

from ncfast.experiments.report.runs import Run
from ncfast.tracking.analytics.events import series


@dataclass(frozen=True)
class Drawing:
    """A figure of the report. It is written into the page, a PNG file and a CSV file.

    Attributes:
        name: name of the files, without suffix.
        title: heading on the page.
        caption: explains what the figure shows and how to read it.
        figure: the picture.
        head: column names of the CSV file.
        rows: the data that the picture shows.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    head: Sequence[str]
    rows: list[Sequence[Any]] = field(default_factory=list)

    def csv(self) -> bytes:
        """The data as a CSV file."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.head)
        writer.writerows(self.rows)
        return buffer.getvalue().encode()


_MAX_POINTS = 1500
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "svg.fonttype": "path",
}
_HEAD = ("quantity", "step", "value")
TRAIN, TEST = "#2b5fa3", "#d9732b"
EVENT_COLOURS = {"fit": "#2b5fa3", "generalisation": "#d9732b", "collapse": "#3c8d54"}


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
    """All panels of one run in a column, with the events marked."""
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 8.4), layout="constrained")
        axes = figure.subplots(len(PANELS), 1, sharex=True)
        for axis, panel in zip(axes, PANELS, strict=True):
            _draw(axis, panel, run)
        _label_events(axes[0], run)
        axes[-1].set_xlabel("step")
    caption = "Accuracy, RNC1, NC2 and NC1 against the step. Dashed lines mark the events."
    rows = [row for panel in PANELS for row in _rows(panel, run)]
    return Drawing("overview", run.title, caption, figure, _HEAD, rows)


def single(panel: Panel, run: Run) -> Drawing:
    """One panel of one run, with the events marked."""
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        axis = figure.subplots()
        _draw(axis, panel, run)
        _label_events(axis, run)
        axis.set_xlabel("step")
    return Drawing(panel.name, panel.label, "", figure, _HEAD, _rows(panel, run))


def _rows(panel: Panel, run: Run) -> list[Sequence[Any]]:
    return [
        (curve.key, step, value)
        for curve in panel.curves
        for step, value in zip(*(v.tolist() for v in series(run.records, curve.key)), strict=True)
    ]


def _draw(axis: Axes, panel: Panel, run: Run) -> None:
    for curve in panel.curves:
        steps, values = _thinned(run, curve.key)
        if len(steps):
            style = ":" if curve.dashed else "-"
            axis.plot(steps, values, style, color=curve.colour, label=curve.label)
    for name, colour in EVENT_COLOURS.items():
        step = getattr(run.events, name)
        if step is not None:
            axis.axvline(step, color=colour, linewidth=1.0, linestyle=(0, (4, 2)), alpha=0.8)
    finish_axis(axis, panel)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="best", fontsize=8, ncols=2 if len(panel.curves) > 2 else 1)


def finish_axis(axis: Axes, panel: Panel) -> None:
    """Set scales, ticks and labels of a panel after its curves are drawn."""
    # linear below 1, so that step 0 can be shown
    axis.set_xscale("symlog", linthresh=1, linscale=0.35)
    axis.set_xlim(left=0)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_ylabel(panel.label)
    if panel.log and np.isfinite(axis.dataLim.minposy):  # a logarithmic axis needs a positive value
        axis.set_yscale("log")
        low, high = axis.get_ylim()
        if high / low < 300:  # below about two decades, powers of ten give too few ticks
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_ylim(-0.02, 1.04)


def _label_events(axis: Axes, run: Run) -> None:
    found = [(getattr(run.events, name), name) for name in EVENT_COLOURS]
    for level, (step, name) in enumerate(pair for pair in found if pair[0] is not None):
        axis.annotate(
            f"{name} {step:,}",
            (step, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-3, 4 + 10 * level),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=EVENT_COLOURS[name],
        )


def _thinned(run: Run, key: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """About `_MAX_POINTS` points of a series, evenly spaced on a log axis, with first and last."""
    steps, values = series(run.records, key)
    if len(steps) > _MAX_POINTS:
        marks = np.geomspace(1, steps[-1] + 1, _MAX_POINTS) - 1
        index = np.unique(np.searchsorted(steps, marks).clip(max=len(steps) - 1))
        steps, values = steps[index], values[index]
    return steps, values


def to_bytes(figure: Figure, kind: str) -> bytes:
    """The figure as a "png" or "svg" file; a palette reduces a PNG to a third of its size."""
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=150)
    if kind != "png":
        return buffer.getvalue()
    smaller = io.BytesIO()
    with Image.open(buffer) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            smaller, "png", optimize=True
        )
    return smaller.getvalue()
