"""The panels as they stand on the page: each is a small picture, so that a phone can show it.

A tile is drawn by the same functions as the panel of the PNG file. It has its own size, which keeps
text readable where a whole figure would be scaled down to the width of a phone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ncfast.experiments.report.theme import STYLE

FONT = 11.0
_TILE_STYLE = {
    **STYLE,
    "font.size": FONT,
    "axes.linewidth": 0.8,
    "svg.fonttype": "none",
    "path.simplify_threshold": 0.4,
}
WIDE, SMALL = (400.0, 180.0), (280.0, 150.0)  # points; the height is that of the panel
_LEFT, _RIGHT, _BELOW, _ABOVE = 44.0, 12.0, 36.0, 8.0


@dataclass(frozen=True)
class Line:
    """A curve with all its values: for the alternative text and the hover read-out.

    Attributes:
        label: name of the curve.
        colour: colour, "#rrggbb".
        dashed: whether the curve is dotted.
        steps: steps of the values, (n,).
        values: the values, (n,); means over the seeds if there are several.
        low: smallest value over the seeds, (n,); None for a single run.
        high: largest value over the seeds, (n,).
    """

    label: str
    colour: str
    dashed: bool
    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None

    def text(self, index: int) -> str:
        """The value at one of the steps, with its range over the seeds."""
        shown = _short(float(self.values[index]))
        if self.low is None or self.high is None or self.low[index] == self.high[index]:
            return shown
        return f"{shown} ({_short(float(self.low[index]))} to {_short(float(self.high[index]))})"

    def at(self, step: float) -> int:
        """Index of the last value at or before ``step``, or of the first value."""
        return max(int(np.searchsorted(self.steps, step, side="right")) - 1, 0)


@dataclass(frozen=True)
class Tile:
    """A small picture.

    Attributes:
        title: line above the picture; may be empty.
        axis: an axis of the picture; the hover read-out belongs to it.
        alt: alternative text, with the values.
        lines: the curves of the hover read-out; empty if there is none.
    """

    title: str
    axis: Axes
    alt: str
    lines: Sequence[Line] = ()

    @property
    def figure(self) -> Figure:
        """The picture."""
        figure = self.axis.figure
        assert isinstance(figure, Figure)
        return figure


@dataclass(frozen=True)
class TileRow:
    """Pictures of one quantity beside each other, with one legend.

    Attributes:
        title: the quantity.
        keys: label, colour, and whether it is dotted, of each entry of the legend.
        tiles: the pictures.
        small: whether four pictures fit beside each other on a desktop, instead of two.
    """

    title: str
    keys: Sequence[tuple[str, str, bool]]
    tiles: Sequence[Tile]
    small: bool = False


@contextmanager
def tile_axes(levels: int = 0, size: tuple[float, float] = WIDE, **margins: float) -> Iterator[Any]:
    """A new tile with one axis; what the block draws has the style of tiles.

    Args:
        levels: number of lines of text above the panel.
        size: width of the tile and height of the panel, in points.
        margins: other values of ``left``, ``right`` or ``below``, in points.
    """
    with tile_grid(1, 1, levels, size, **margins) as axes:
        yield axes[0, 0]


@contextmanager
def tile_grid(
    rows: int, columns: int, levels: int = 0, size: tuple[float, float] = WIDE, **margins: float
) -> Iterator[Any]:
    """A new tile with several axes, (rows, columns); see `tile_axes`. ``size`` has all heights."""
    left, right = margins.get("left", _LEFT), margins.get("right", _RIGHT)
    below, above = margins.get("below", _BELOW), _ABOVE + 1.2 * FONT * levels
    width, height = size[0], size[1] + above + below
    with rc_context(_TILE_STYLE):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        figure.patch.set_visible(False)
        axes = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(
            left / width,
            below / height,
            1 - right / width,
            1 - above / height,
            0.12,
            margins.get("between", 0.12),
        )
        for axis in axes.flat:
            axis.patch.set_visible(False)
        yield axes


def alternative(
    name: str, lines: Sequence[Line], events: Mapping[str, Sequence[int]] | None = None
) -> str:
    """The alternative text of curves: their values at the start, at the events and at the end."""
    events = events or {}
    told = [f"{name}, against the step.".replace("\n", " ")]
    for event, steps in events.items():
        told.append(f"{event.capitalize()} at step {_span(steps)}.")
    for line in lines:
        marks = {0: "", **{steps[len(steps) // 2]: f", {e}" for e, steps in events.items()}}
        marks[int(line.steps[-1])] = ""
        found = {line.at(step): event for step, event in sorted(marks.items())}
        values = [f"{line.text(i)} at step {line.steps[i]:,}{e}" for i, e in found.items()]
        told.append(f"{line.label[:1].upper()}{line.label[1:]}: {'; '.join(values)}.")
    return " ".join(told)


def _span(steps: Sequence[int]) -> str:
    low, high = min(steps), max(steps)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _short(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"
