"""Steps of the events against weight decay, with the fitted power law of tau_2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ncfast.experiments.report.drawing import Drawing
from ncfast.experiments.report.figures import EVENT_COLOURS, STYLE
from ncfast.experiments.report.runs import Run
from ncfast.experiments.report.scaling import decay_law, time_scales

_TAU2 = "#5b4ea1"


def draw_events(runs: Sequence[Run]) -> Drawing | None:
    """One point a run and event; None with fewer than two positive weight decays."""
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
            spread = 1.04 ** (shift - 1.5)  # side by side where they would cover each other
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
        else f" tau_2: RNC1 of the training features under {scales.eps2:.3g}."
    )
    return Drawing(
        "events",
        "When things happen, by weight decay",
        "A point a run and event." + level + " Line: the power law fitted to tau_2; theory says "
        "slope -1.",
        figure,
        ("event", "weight_decay", "run", "step"),
        rows,
    )
