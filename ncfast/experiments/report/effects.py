"""Draws the effects of the arms of an experiment: ratios to the control, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ncfast.experiments.report.figures import Drawing
from ncfast.experiments.report.page import number, table
from ncfast.experiments.report.theme import GRID, INK, PROJECTED, QUIET, STYLE
from ncfast.experiments.report.tiles import WIDE, Tile, TileRow, tile_axes

HEAD = ("arm", "ratio", "low", "high", "pairs", "verdict")
LABELS = 120.0  # points for the names of the arms
_COUNTED = ("no effect", "earlier", "later", "cannot tell")


class EffectRow(NamedTuple):
    """The effect of one arm.

    Attributes:
        arm: name of the arm.
        ratio: the arm's outcome over the control's, geometric mean over the seeds.
        low: lower end of the 95 % interval of the ratio; NaN with a single pair.
        high: its upper end.
        pairs: number of seeds.
        verdict: the verdict in words.
    """

    arm: str
    ratio: float
    low: float
    high: float
    pairs: int
    verdict: str


def effects_table(rows: Sequence[EffectRow], outcome: str) -> str:
    """The effects as an HTML table.

    Args:
        rows: the arms, without the control.
        outcome: what the ratio compares.
    """
    head = ["arm", "verdict", f"{outcome}, over the control's", "95 % from", "to", "seeds"]
    cells = [[r.arm, r.verdict, *map(number, (r.ratio, r.low, r.high)), str(r.pairs)] for r in rows]
    return table(head, cells, text_columns=2)


def draw_effects(rows: Sequence[EffectRow], outcome: str, control: str) -> Drawing | None:
    """A point with its interval for each arm; None if no arm has a finite ratio.

    Args:
        rows: the arms, without the control.
        outcome: what the ratio compares.
        control: name of the control.
    """
    if not any(math.isfinite(row.ratio) and row.ratio > 0 for row in rows):
        return None
    label = f"{outcome}, over that of {control}"
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.2 + 0.3 * len(rows)), layout="constrained")
        axis = figure.subplots()
        _draw(axis, rows)
        axis.set_xlabel(label)
    with tile_axes(0, (WIDE[0], 24.0 * len(rows) + 10), left=LABELS) as small:
        _draw(small, rows)
        small.set_xlabel("ratio")
    alt = " ".join(f"{row.arm}: {_told(row)}, {row.verdict}." for row in rows)
    caption = "Points are geometric means of the ratios within a seed"
    if any(math.isfinite(row.low) for row in rows):
        caption += ", and bars are 95 % intervals (Student)"
    caption += ". The line at 1 is no effect."
    if any(row.verdict not in _COUNTED for row in rows):
        caption += " An open point is an arm that does not count."
    tile = Tile("", small, f"{label}. {alt}")
    title = "Effects of the arms"
    return Drawing("effects", title, caption, figure, HEAD, [*rows], [TileRow(label, [], [tile])])


def _told(row: EffectRow) -> str:
    if not math.isfinite(row.low):
        return number(row.ratio)
    return f"{number(row.ratio)} ({number(row.low)} to {number(row.high)})"


def _draw(axis: Axes, rows: Sequence[EffectRow]) -> None:
    axis.axvline(1, color=INK, linewidth=0.8)
    for place, row in enumerate(rows):
        if not (math.isfinite(row.ratio) and row.ratio > 0):
            continue
        colour = PROJECTED if row.verdict in ("earlier", "later") else QUIET
        if math.isfinite(row.low):
            axis.plot([row.low, row.high], [place, place], color=colour, linewidth=2)
        face = colour if row.verdict in _COUNTED else "none"
        axis.plot([row.ratio], [place], "o", color=colour, markerfacecolor=face, markersize=6)
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.set_xlim(min(low, 0.8), max(high, 1.25))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > 4 else range(1, 10)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_yticks(range(len(rows)), [row.arm for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(visible=False, axis="y")
    axis.grid(visible=True, axis="x", color=GRID)
