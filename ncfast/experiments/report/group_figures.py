"""Draws two figures of groups of runs: events against weight decay, and the information plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ncfast.experiments.report.figures import EVENT_COLOURS, STYLE, Drawing
from ncfast.experiments.report.grids import pick
from ncfast.experiments.report.runs import Run, RunGroup, band
from ncfast.experiments.report.scaling import decay_law, time_scales

_TAU2 = "#5b4ea1"


def draw_events(runs: Sequence[Run]) -> Drawing | None:
    """Draw a point for each run and event. None with fewer than two positive weight decays."""
    decays = sorted({float(run.settings["weight_decay"]) for run in runs} - {0.0})
    scales = time_scales(runs)
    kinds = {name: [getattr(run.events, name) for run in runs] for name in EVENT_COLOURS}
    kinds["tau_2"] = list(scales.tau2)
    if len(decays) < 2 or not any(step for steps in kinds.values() for step in steps):
        return None
    rows: list[Sequence[Any]] = []
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.8), layout="constrained")
        axis = figure.subplots()
        markers = dict(zip(kinds, "osD^", strict=True))
        for shift, (name, steps) in enumerate(kinds.items()):
            points = [
                (float(run.settings["weight_decay"]), step, run.path.name)
                for run, step in zip(runs, steps, strict=True)
                if step and run.settings["weight_decay"] > 0
            ]
            rows += [(name, decay, run, step) for decay, step, run in points]
            colour = EVENT_COLOURS.get(name, _TAU2)
            spread = 1.04 ** (shift - 1.5)  # shifted, so that the markers do not cover each other
            axis.plot(
                [p[0] * spread for p in points],
                [p[1] for p in points],
                markers[name],
                color=colour,
                label=name,
                markersize=5,
                alpha=0.8,
            )
        law = decay_law(runs, scales.tau2)
        if law is not None:
            ends = [min(decays), max(decays)]
            axis.plot(
                ends,
                [law(decay) for decay in ends],
                color=_TAU2,
                linewidth=1,
                alpha=0.7,
                label=f"slope {law.exponent:.2f}",
            )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(decays, [f"{decay:g}" for decay in decays])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("weight decay λ")
        axis.set_ylabel("step")
        figure.legend(fontsize=8, loc="outside right upper")
    level = (
        ""
        if scales.eps2 is None
        else f" At tau_2 the RNC1 of the training features falls below {scales.eps2:.3g}."
    )
    return Drawing(
        "events",
        "Events by weight decay",
        "A point is an event of a run." + level + " The line is the power law fitted to tau_2; the "
        "theory predicts a slope of -1.",
        figure,
        ("event", "weight_decay", "run", "step"),
        rows,
    )


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
        "Mean over the seeds on unseen samples, with noise of σ times the largest feature norm. "
        "Bars are standard errors. I(Z;X) is estimated (KSG) on four principal components of "
        "features and inputs and misses the information in the others. I(Z;Y) is estimated on as "
        "many components as the class means span. The dashed line is the entropy of ten equally "
        "frequent classes, which I(Z;Y) cannot exceed.",
        figure,
        _HEAD,
        rows,
    )


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
