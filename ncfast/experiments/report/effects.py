"""Shows the effects of the arms of an experiment: ratios to the control, with intervals.

`ncfast.experiments.effects` measures and judges them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ncfast.experiments.config import parse_penalty_mode
from ncfast.experiments.effects import Arm, Effect, Push, effect
from ncfast.experiments.report.figures import Drawing
from ncfast.experiments.report.page import number, table
from ncfast.experiments.report.runs import RunGroup, branched
from ncfast.experiments.report.theme import GRID, INK, PROJECTED, QUIET, STYLE
from ncfast.experiments.report.tiles import WIDE, Tile, TileRow, tile_axes

HEAD = ("arm", "ratio", "low", "high", "pairs", "verdict")
LABELS = 120.0  # points for the names of the arms
_COUNTED = ("no effect", "earlier", "later", "cannot tell")


class EffectRow(NamedTuple):
    """The effect of one arm.

    Attributes:
        arm: name of the arm.
        ratio: the arm's outcome over the control's, geometric mean over the seeds; NaN if the
            control did not reach the outcome, 0 if the arm had it at step 0.
        low: lower end of the 95 % interval of the ratio; NaN with a single pair.
        high: its upper end. Infinite if the arm did not reach the outcome in each pair: the ratio
            is a lower bound then.
        pairs: number of seeds.
        verdict: the verdict in words.
    """

    arm: str
    ratio: float
    low: float
    high: float
    pairs: int
    verdict: str


# What the ratio compares, in words, and the key of the log that it needs.
OUTCOMES: dict[Literal["loss", "accuracy"], tuple[str, str]] = {
    "loss": ("step at which the test loss is 1", "test/loss"),
    "accuracy": ("step of 90 % of the best test accuracy", "test/accuracy"),
}
_PUSHED = {"rnc1": "train/rnc1.max", "quotient": "train/nc1.quotient", "cdnv": "train/nc1.cdnv"}


def effect_rows(
    groups: Sequence[RunGroup], outcome: Literal["loss", "accuracy"]
) -> list[EffectRow]:
    """The effect of every arm on the step of an outcome, by `ncfast.experiments.effects.effect`.

    Args:
        groups: the control, and then the arms. Their runs branched at the first step of their logs.
        outcome: the outcome.

    Returns:
        The rows in the order of the arms. Left out are arms of which a run has not ended, and arms
        without a seed of the control or without a log of the outcome; all of them if that is true
        of the control.
    """
    key = OUTCOMES[outcome][1]
    logged = [
        group
        for group in groups
        if all(run.finished and _has(run.records, key) for run in group.runs)
    ]
    if not logged or logged[0] is not groups[0]:
        return []
    control, *others = map(_arm, logged)
    first = [int(run.records[0]["step"]) for g in logged for run in g.runs if branched(run)]
    rows = []
    for arm in others:
        if not set(arm.logs) & set(control.logs):
            continue
        push = _push(arm.settings)
        found = effect(arm, control, branch=max(first), push=push, outcome=outcome)
        rows.append(_row(found))
    return rows


def _row(found: Effect) -> EffectRow:
    count = len(found.pairs)
    if not all(pair.control.reached for pair in found.pairs):
        return EffectRow(found.arm, math.nan, math.nan, math.nan, count, found.verdict)
    if any(pair.arm.reached and pair.log_ratio() == -math.inf for pair in found.pairs):
        return EffectRow(found.arm, 0.0, math.nan, math.nan, count, found.verdict)
    if not all(pair.arm.reached for pair in found.pairs):
        return EffectRow(found.arm, found.ratio[0], math.nan, math.inf, count, found.verdict)
    return EffectRow(found.arm, *found.ratio, count, found.verdict)


def _has(records: Sequence[dict[str, float]], key: str) -> bool:
    return any(key in record for record in records)


def _arm(group: RunGroup) -> Arm:
    logs = {int(run.settings["seed"]): run.records for run in group.runs}
    return Arm(group.label, logs, group.runs[0].settings)


def _push(settings: Mapping[str, Any]) -> Push | None:
    """The quantity that a servo moves; None for other arms, which count by their fit alone."""
    penalty = settings.get("penalty", "none")
    mode = parse_penalty_mode(settings.get("penalty_mode", "ratio:0.3"), penalty)
    if penalty not in _PUSHED or not mode.servo:
        return None
    return Push(_PUSHED[penalty], "down" if mode.value < 1 else "up")


def effects_table(rows: Sequence[EffectRow]) -> str:
    """The effects as an HTML table; ``rows`` are the arms, without the control."""
    head = ["arm", "verdict", "ratio to the control", "95 % from", "to", "seeds"]
    cells = [[row.arm, row.verdict, *_cells(row), str(row.pairs)] for row in rows]
    return table(head, cells, text_columns=2)


def _cells(row: EffectRow) -> list[str]:
    """The ratio and its interval; "at least" before a lower bound, dashes for what is undefined."""
    ends = [number(end) if math.isfinite(end) else "–" for end in (row.low, row.high)]
    ratio = number(row.ratio) if math.isfinite(row.ratio) else "–"
    ratio = "reached at step 0" if row.ratio == 0 else ratio
    return [f"at least {ratio}" if row.high == math.inf else ratio, *ends]


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
    if any(row.ratio == 0 for row in rows):
        caption += " An arm without a point reached it at step 0."
    if any(row.high == math.inf for row in rows):
        caption += " A triangle is a lower bound: a run of the arm ended before."
    if any(row.verdict not in _COUNTED for row in rows):
        caption += " An open point is an arm that does not count."
    tile = Tile("", small, f"{label}. {alt}")
    title = "Effects of the arms"
    return Drawing("effects", title, caption, figure, HEAD, [*rows], [TileRow(label, [], [tile])])


def _told(row: EffectRow) -> str:
    ratio, low, high = _cells(row)
    return f"{ratio} ({low} to {high})" if math.isfinite(row.low) else ratio


def _draw(axis: Axes, rows: Sequence[EffectRow]) -> None:
    axis.axvline(1, color=INK, linewidth=0.8)
    for place, row in enumerate(rows):
        if not (math.isfinite(row.ratio) and row.ratio > 0):
            continue
        colour = PROJECTED if row.verdict in ("earlier", "later") else QUIET
        if math.isfinite(row.low):
            axis.plot([row.low, row.high], [place, place], color=colour, linewidth=2)
        face = colour if row.verdict in _COUNTED else "none"
        marker = ">" if row.high == math.inf else "o"
        axis.plot([row.ratio], [place], marker, color=colour, markerfacecolor=face, markersize=6)
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.set_xlim(min(low, 0.8), max(high, 1.25))
    wide = high / low > 4
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(5))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_yticks(range(len(rows)), [row.arm for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(visible=False, axis="y")
    axis.grid(visible=True, axis="x", color=GRID)
