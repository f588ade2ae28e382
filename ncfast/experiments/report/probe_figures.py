"""Draws the features at chosen steps: margins between classes, and principal components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from ncfast.experiments.report.figures import Drawing
from ncfast.experiments.report.probes import read_probes
from ncfast.experiments.report.runs import Run
from ncfast.experiments.report.theme import QUIET, STYLE, TEST, TRAIN
from ncfast.experiments.report.tiles import SMALL, Tile, TileRow, tile_grid

SHOWN = 5
_CLASS_COLOURS = [to_hex(colour) for colour in colormaps["tab10"].colors]  # type: ignore[attr-defined]


def chosen(run: Run) -> list[Mapping[str, Any]]:
    """At most `SHOWN` probes: the first, those nearest to the events of the run, and the last.

    The remaining places are filled with probes between the fit and the end, evenly spaced on the
    log axis.
    """
    probes = read_probes(run)
    if len(probes) <= SHOWN:
        return probes
    steps = np.array([probe["step"] for probe in probes])
    events = run.events
    wanted = [0, *(s for s in (events.fit, events.generalisation) if s is not None), steps[-1]]
    start = max(events.fit or 1, 1)
    for mark in [*wanted, *np.geomspace(start, max(steps[-1], start), 9)[[4, 2, 6, 1, 7, 3, 5]]]:
        index = int(np.abs(np.log1p(steps) - np.log1p(mark)).argmin())
        if len({*_indices(wanted, steps), index}) <= SHOWN:
            wanted.append(steps[index])
    return [probes[i] for i in sorted(_indices(wanted, steps))]


def _indices(wanted: Sequence[float], steps: Any) -> set[int]:
    return {int(np.abs(np.log1p(steps) - np.log1p(mark)).argmin()) for mark in wanted}


def margins(run: Run) -> Drawing | None:
    """Figure 5 of the paper: a row per step, a column per pair of classes, with both splits."""
    probes = [probe for probe in chosen(run) if probe.get("margins")]
    if not probes:
        return None
    pairs = probes[0]["margins"]["pairs"]
    rows: list[Sequence[Any]] = []
    with rc_context(STYLE):
        figure = Figure(
            figsize=(0.8 + 2.4 * len(pairs), 1.0 + 1.3 * len(probes)), layout="constrained"
        )
        axes = figure.subplots(len(probes), len(pairs), squeeze=False)
        for line, probe in zip(axes, probes, strict=True):
            for column, (axis, pair) in enumerate(zip(line, pairs, strict=True)):
                rows += _margin_panel(axis, probe, column, pair)
            line[0].set_ylabel(f"step {probe['step']:,}")
        for axis, pair in zip(axes[0], pairs, strict=True):
            axis.set_title(f"class {pair[0]} against {pair[1]}", fontsize=9)
        for axis in axes[-1]:
            axis.set_xlabel("margin")
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return Drawing(
        "margins",
        f"Margins between classes, {run.path.name}",
        "Signed distance of the samples of two classes from the boundary between them. The upper "
        "half shows training samples, the lower half unseen samples; each half is scaled to its "
        "highest bar. Samples on the wrong side of zero are errors of the pair. A collapsed class "
        "is a spike.",
        figure,
        ("step", "pair", "split", "class", "margin", "count"),
        rows,
        [_margin_tiles(probes, pairs)],
    )


def _margin_tiles(probes: Sequence[Mapping[str, Any]], pairs: Sequence[Sequence[int]]) -> TileRow:
    """A tile for each pair of classes, with a panel for each step."""
    tiles = []
    for column, pair in enumerate(pairs):
        told = []
        with tile_grid(
            len(probes), 1, 0, (SMALL[0], 80.0 * len(probes)), left=12.0, between=0.45
        ) as axes:
            for axis, probe in zip(axes[:, 0], probes, strict=True):
                rows = _margin_panel(axis, probe, column, pair)
                axis.text(0.0, 0.96, f"step {probe['step']:,}", transform=axis.transAxes, va="top")
                told.append(f"Step {probe['step']:,}: {_errors(rows, pair)}.")
            axes[-1, 0].set_xlabel("margin")
        name = f"class {pair[0]} against {pair[1]}"
        alt = f"Histograms of the margins of {name}. {' '.join(told)}"
        tiles.append(Tile(name, axes[0, 0], alt))
    return TileRow("", [("train", TRAIN, False), ("unseen", TEST, False)], tiles, small=True)


def _errors(rows: Sequence[Sequence[Any]], pair: Sequence[int]) -> str:
    """How many samples of each split are on the wrong side, and how far the others are away."""
    told = []
    for split, name in (("train", "training"), ("test", "unseen")):
        side = np.array([1 if row[3] == pair[0] else -1 for row in rows if row[2] == split])
        margin = np.array([row[4] for row in rows if row[2] == split])
        count = np.array([row[5] for row in rows if row[2] == split])
        if not count.sum():
            continue
        wrong = int(count[side * margin < 0].sum())
        distance = float((np.abs(margin) * count).sum() / count.sum())
        told.append(
            f"{wrong} of {int(count.sum())} {name} samples on the wrong side, mean distance "
            f"{distance:.3g}"
        )
    return "; ".join(told)


def _margin_panel(
    axis: Axes, probe: Mapping[str, Any], column: int, pair: Sequence[int]
) -> list[Sequence[Any]]:
    found = probe["margins"]
    rows: list[Sequence[Any]] = []
    edge = found["edge"]
    for split, colour, sign in (("train", TRAIN, 1), ("test", TEST, -1)):
        counts = np.array(found["counts"][split][column], float)  # (2, bins)
        edges = np.linspace(-edge, edge, counts.shape[1] + 1)
        peak = max(counts.max(), 1.0)
        for side, (row, alpha) in enumerate(zip(counts, (0.9, 0.5), strict=True)):
            label = ("train" if sign > 0 else "unseen") if side == 0 else None
            height = sign * row / peak
            axis.stairs(height, edges, fill=True, color=colour, alpha=alpha, label=label)
            centres = (edges[:-1] + edges[1:]) / 2
            rows += [
                (probe["step"], f"{pair[0]}-{pair[1]}", split, pair[side], float(c), int(n))
                for c, n in zip(centres, row, strict=True)
                if n
            ]
    axis.axvline(0, color=QUIET, linewidth=0.7)
    axis.axhline(0, color=QUIET, linewidth=0.5)
    axis.set_yticks([])
    axis.grid(visible=False)
    axis.spines["left"].set_visible(False)
    return rows


def components(run: Run) -> Drawing | None:
    """Training and unseen samples on the two principal axes of the training features."""
    probes = [probe for probe in chosen(run) if probe.get("components")]
    if not probes:
        return None
    rows: list[Sequence[Any]] = []
    with rc_context(STYLE):
        figure = Figure(figsize=(0.6 + 2.1 * len(probes), 4.9), layout="constrained")
        axes = figure.subplots(2, len(probes), squeeze=False)
        for column, probe in enumerate(probes):
            found = probe["components"]
            for line, split in enumerate(("train", "test")):
                axis = axes[line][column]
                rows += _scatter(axis, found, split, probe["step"])
                axis.sharex(axes[0][column])
                axis.sharey(axes[0][column])
            axes[0][column].set_title(
                f"step {probe['step']:,}\n{100 * sum(found['explained']):.0f} % of variance",
                fontsize=9,
            )
        labels = sorted(set(probes[-1]["components"]["train_labels"]))
        dots = [axes[0][-1].scatter([], [], color=_CLASS_COLOURS[y % 10], s=14) for y in labels]
        figure.legend(dots, [str(y) for y in labels], loc="outside right center", title="class")
        axes[0][0].set_ylabel("train")
        axes[1][0].set_ylabel("unseen")
    return Drawing(
        "components",
        f"Features on two principal axes, {run.path.name}",
        "The axes are the principal axes of the training features at that step. Each class has a "
        f"colour. Collapsed classes span {len(labels) - 1} dimensions, of which two are shown.",
        figure,
        ("step", "split", "class", "first", "second"),
        rows,
        [_component_tiles(probes, labels)],
    )


def _component_tiles(probes: Sequence[Mapping[str, Any]], labels: Sequence[int]) -> TileRow:
    """A tile for each step, with training samples on the left and unseen samples on the right."""
    tiles = []
    for probe in probes:
        found = probe["components"]
        share = f"{100 * sum(found['explained']):.0f} %"
        with tile_grid(1, 2, 1, (SMALL[0], 132.0), left=4.0, right=4.0, below=4.0) as axes:
            for axis, split, name in zip(
                axes[0], ("train", "test"), ("train", "unseen"), strict=True
            ):
                _scatter(axis, found, split, probe["step"])
                axis.sharex(axes[0, 0])
                axis.sharey(axes[0, 0])
                axis.set_title(name, fontsize=11, pad=3)
        name = f"step {probe['step']:,}: {share} of the variance"
        alt = (
            f"Features at step {probe['step']:,} on two principal axes, which hold {share} of the "
            f"variance: {len(found['train'])} training and {len(found['test'])} unseen samples. "
            f"{_separation(found)}"
        )
        tiles.append(Tile(name, axes[0, 0], alt))
    keys = [(f"class {y}", _CLASS_COLOURS[y % 10], False) for y in labels]
    return TileRow("", keys, tiles, small=True)


def _separation(found: Mapping[str, Any]) -> str:
    """The spread within the classes over that between their means, for each split."""
    told = []
    for split, name in (("train", "training"), ("test", "unseen")):
        points, labels = np.array(found[split], float), np.array(found[f"{split}_labels"])
        means = np.array([points[labels == y].mean(0) for y in np.unique(labels)])
        own = means[np.searchsorted(np.unique(labels), labels)]
        within, between = np.square(points - own).sum(1).mean(), np.square(own).sum(1).mean()
        if between > 0:
            told.append(f"{within / between:.2g} for {name} samples")
    return f"In this plane the variance within classes over that between them is {', '.join(told)}."


def _scatter(axis: Axes, found: Mapping[str, Any], split: str, step: int) -> list[Sequence[Any]]:
    points, labels = np.array(found[split], float), np.array(found[f"{split}_labels"])
    for y in np.unique(labels):
        ends = np.repeat(points[labels == y], 2, axis=0)
        codes = [Outline.MOVETO, Outline.LINETO] * (len(ends) // 2)
        # a line without length and with round ends is a dot: one element for all points of a class
        axis.add_patch(
            PathPatch(
                Outline(ends, codes),
                edgecolor=_CLASS_COLOURS[int(y) % 10],
                facecolor="none",
                linewidth=2.4,
                capstyle="round",
                alpha=0.8,
            )
        )
    axis.autoscale_view()
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    return [(step, split, int(y), *map(float, p)) for y, p in zip(labels, points, strict=True)]
