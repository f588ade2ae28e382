"""Draws two figures of groups of runs: events against weight decay, and the information plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ncfast.experiments.report.figures import Drawing, short_step
from ncfast.experiments.report.grids import pick
from ncfast.experiments.report.runs import Run, RunGroup, band
from ncfast.experiments.report.scaling import decay_law, time_scales
from ncfast.experiments.report.theme import EVENT_COLOURS, STYLE
from ncfast.experiments.report.theme import PROJECTED as TAU2
from ncfast.experiments.report.tiles import SMALL, WIDE, Tile, TileRow, tile_axes
from ncfast.tracking.analytics import PowerLaw


def draw_events(runs: Sequence[Run]) -> Drawing | None:
    """Draw a point for each run and event. None with fewer than two positive weight decays."""
    decays = sorted({float(run.settings["weight_decay"]) for run in runs} - {0.0})
    scales = time_scales(runs)
    kinds = {name: [getattr(run.events, name) for run in runs] for name in EVENT_COLOURS}
    kinds["tau_2"] = list(scales.tau2)
    if len(decays) < 2 or not any(step for steps in kinds.values() for step in steps):
        return None
    law = decay_law(runs, scales.tau2)
    rows: list[Sequence[Any]] = [
        (name, float(run.settings["weight_decay"]), run.path.name, step)
        for name, steps in kinds.items()
        for run, step in zip(runs, steps, strict=True)
        if step and run.settings["weight_decay"] > 0
    ]
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.8), layout="constrained")
        axis = figure.subplots()
        _draw_events(axis, rows, decays, law)
        axis.set_ylabel("step")
        figure.legend(fontsize=8, loc="outside right upper")
    told = ["A point is an event of a run."]
    if scales.eps2 is not None and any(scales.tau2):
        told.append(f"At tau_2 the RNC1 of the training features falls below {scales.eps2:.3g}.")
    if law is not None:
        told.append("The line is the power law fitted to tau_2; the theory predicts a slope of -1.")
    title, head = "Events by weight decay", ("event", "weight_decay", "run", "step")
    tiles = [_events_tile(rows, decays, law)]
    return Drawing("events", title, " ".join(told), figure, head, rows, tiles)


_MARKERS = dict(zip((*EVENT_COLOURS, "tau_2"), "osD^", strict=True))


def _draw_events(
    axis: Axes, rows: Sequence[Sequence[Any]], decays: Sequence[float], law: PowerLaw | None
) -> None:
    for shift, (name, marker) in enumerate(_MARKERS.items()):
        points = [(decay, step) for event, decay, _, step in rows if event == name]
        if not points:
            continue
        spread = 1.04 ** (shift - 1.5)  # shifted, so that the markers do not cover each other
        axis.plot(
            [decay * spread for decay, _ in points],
            [step for _, step in points],
            marker,
            color=EVENT_COLOURS.get(name, TAU2),
            label=name,
            markersize=5,
            alpha=0.8,
        )
    if law is not None:
        ends = [min(decays), max(decays)]
        label = f"slope {law.exponent:.2f}"
        values = [law(decay) for decay in ends]
        axis.plot(ends, values, color=TAU2, linewidth=1, alpha=0.7, label=label)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(decays, [f"{decay:g}" for decay in decays])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(short_step))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("weight decay λ")


def _events_tile(
    rows: Sequence[Sequence[Any]], decays: Sequence[float], law: PowerLaw | None
) -> TileRow:
    with tile_axes(0, (WIDE[0], 220.0)) as axis:
        _draw_events(axis, rows, decays, law)
    told = []
    for name in _MARKERS:
        steps = {d: [row[3] for row in rows if row[:2] == (name, d)] for d in decays}
        at = [f"λ = {d:g}: {min(s):,} to {max(s):,}" for d, s in steps.items() if s]
        if at:
            told.append(f"{name.capitalize()}, {'; '.join(at)}.")
    keys = [
        (f"{_SHAPES[marker]} {name}", EVENT_COLOURS.get(name, TAU2), False)
        for name, marker in _MARKERS.items()
        if any(row[0] == name for row in rows)
    ]
    if law is not None:
        keys.append((f"slope {law.exponent:.2f}", TAU2, False))
    return TileRow("step", keys, [Tile("", axis, f"Steps of the events. {' '.join(told)}")])


_SHAPES = {"o": "●", "s": "■", "D": "◆", "^": "▲"}
_HEAD = ("family", "sigma", "step", "inputs", "inputs_stderr", "labels", "labels_stderr")
_PREFIX = "test/information.inputs@"


def draw_plane(run_groups: Sequence[RunGroup]) -> Drawing | None:
    """Draw a column per group, a row per noise level, a point with standard errors per probe."""
    keys = {key for family in run_groups for record in family.runs[0].records for key in record}
    sigmas = sorted({k.removeprefix(_PREFIX) for k in keys if k.startswith(_PREFIX)}, key=float)
    shown = pick(run_groups)
    if not sigmas:
        return None
    last = max(run.last_step for family in shown for run in family.runs)
    scale = ScalarMappable(LogNorm(1, max(last, 2)), colormaps["viridis"])
    several = any(len(family.runs) > 1 for family in shown)
    seeds = " Points are means over the seeds." if several else ""
    rows: list[Sequence[Any]] = []
    with rc_context(STYLE):
        size = (1.6 + 2.6 * max(len(shown), 2), 0.8 + 2.4 * len(sigmas))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(sigmas), len(shown), sharex="row", sharey="row", squeeze=False)
        for line, sigma in zip(axes, sigmas, strict=True):
            for axis, family in zip(line, shown, strict=True):
                rows += _panel(axis, family, sigma, scale)
            line[0].set_ylabel(f"I(Z;Y), nats, σ = {sigma}")
        for axis, family in zip(axes[0], shown, strict=True):
            axis.set_title(family.label, fontsize=9)
        for axis in axes[-1]:
            axis.set_xlabel("I(Z;X), nats")
        figure.colorbar(scale, ax=axes, label="step", shrink=0.8)
    return Drawing(
        "plane",
        "The information plane",
        "Unseen samples, with noise of σ times the largest feature norm. The colour goes from dark "
        f"(early) to light (late).{seeds} Bars are standard errors. I(Z;X) is estimated (KSG) on "
        "four principal components of features and inputs and misses the information in the "
        "others. I(Z;Y) is estimated on as many components as the class means span. The dashed "
        "line is the entropy of ten equally frequent classes, which I(Z;Y) cannot exceed.",
        figure,
        _HEAD,
        rows,
        [_plane_row(sigma, shown, scale, line) for sigma, line in zip(sigmas, axes, strict=True)],
    )


def _plane_row(
    sigma: str, shown: Sequence[RunGroup], scale: ScalarMappable, line: Sequence[Axes]
) -> TileRow:
    tiles = []
    for family, drawn in zip(shown, line, strict=True):
        with tile_axes(0, SMALL if len(shown) > 2 else WIDE) as axis:
            rows = _panel(axis, family, sigma, scale)
            axis.set_xlim(drawn.get_xlim())
            axis.set_ylim(drawn.get_ylim())
            axis.set_xlabel("I(Z;X), nats")
        told = [
            f"at step {step:,} I(Z;X) {x:.3g}, I(Z;Y) {y:.3g}"
            for _, _, step, x, _, y, _ in (rows[:: max(len(rows) // 5, 1)] + rows[-1:])
        ]
        alt = f"Information plane, {family.label}, σ = {sigma}: {'; '.join(told)}."
        tiles.append(Tile(family.label if len(shown) > 1 else "", axis, alt))
    return TileRow(f"I(Z;Y), nats, σ = {sigma}", [], tiles, len(shown) > 2)


def _panel(axis: Any, family: RunGroup, sigma: str, scale: ScalarMappable) -> list[Sequence[Any]]:
    names = ("inputs", "inputs_stderr", "labels", "labels_stderr")
    bands = [band(family, f"test/information.{name}@{sigma}") for name in names]
    found = [one for one in bands if one is not None]
    if len(found) < len(names):
        return []
    steps = found[0].steps
    x, dx, y, dy = (one.mean for one in found)
    axis.plot(x, y, color="#bbbbbb", linewidth=0.8, zorder=1)
    axis.errorbar(x, y, xerr=dx, yerr=dy, fmt="none", ecolor="#999999", linewidth=0.8, zorder=2)
    axis.scatter(x, y, c=scale.to_rgba(np.maximum(steps, 1)), s=22, zorder=3)
    axis.axhline(np.log(10), color="#888888", linewidth=0.7, linestyle=(0, (4, 2)))
    columns = (steps.tolist(), *(one.tolist() for one in (x, dx, y, dy)))
    return [(family.label, sigma, *values) for values in zip(*columns, strict=True)]
