"""The information plane: I(Z;X) against I(Z;Y) while a network trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from ncfast.experiments.report.drawing import Drawing
from ncfast.experiments.report.family import Family, band
from ncfast.experiments.report.figures import STYLE
from ncfast.experiments.report.multiples import pick

_HEAD = ("family", "sigma", "step", "inputs", "inputs_stderr", "labels", "labels_stderr")
_PREFIX = "test/information.inputs@"


def draw_plane(families: Sequence[Family]) -> Drawing | None:
    """A column a family, a row a level of noise, a point a probe with its standard errors."""
    keys = {key for family in families for record in family.runs[0].records for key in record}
    sigmas = sorted({k.removeprefix(_PREFIX) for k in keys if k.startswith(_PREFIX)}, key=float)
    shown = pick(families)
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
        "Mean over the seeds on unseen samples, noise σ times the largest feature norm; bars: "
        "standard errors. I(Z;X) is estimated on four principal components of features and inputs "
        "(KSG) and misses what those leave out; I(Z;Y) on as many as class means span. Dashed: the "
        "entropy of ten equally frequent classes, which I(Z;Y) cannot exceed.",
        figure,
        _HEAD,
        rows,
    )


def _panel(axis: Any, family: Family, sigma: str, scale: ScalarMappable) -> list[Sequence[Any]]:
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
