"""Draws the figures of scaling and streaming."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ncfast.benchmarks.scaling import CLASS_MOMENTS, READ, RNC1, seconds_of

COLOURS = {CLASS_MOMENTS: "C0", RNC1: "C1", READ: "0.5"}
DASHES = ["--", "-", "-.", ":"]
LABELS = {"N": "samples N", "D": "columns D", "K": "classes K"}


def scaling(report: Mapping[str, Any], path: Path) -> None:
    """Time along each axis, with one line per contestant and number of threads."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    known = {series["axis"] for series in report["scaling"]}
    axes_names = [axis for axis in LABELS if axis in known]
    fig, panels = plt.subplots(
        1, len(axes_names), figsize=(3.4 * len(axes_names) + 0.6, 3.9), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for panel, axis in zip(panels[0], axes_names, strict=True):
        _panel(panel, axis, [s for s in report["scaling"] if s["axis"] == axis])
    panels[0][0].set_ylabel("seconds a call")
    handles, labels = panels[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    fig.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(fig)


def _panel(panel: Any, axis: str, series: list[Any]) -> None:
    for number, one in enumerate(series):
        threads = f"{one['threads']} thread{'s' if one['threads'] > 1 else ''}"
        for name, colour in COLOURS.items():
            found = [(p["case"][axis], seconds_of(p, name)) for p in one["points"]]
            kept = [(size, seconds) for size, seconds in found if seconds is not None]
            panel.plot(
                [size for size, _ in kept],
                [seconds for _, seconds in kept],
                DASHES[number % len(DASHES)],
                marker="o",
                markersize=3,
                linewidth=1.4,
                color=colour,
                label=f"{name}, {threads}",
            )
    fixed = {k: v for k, v in series[0]["points"][0]["case"].items() if k in LABELS and k != axis}
    panel.set_title(", ".join(f"{k} = {v:,}" for k, v in fixed.items()), fontsize=9)
    panel.set(xscale="log", yscale="log", xlabel=LABELS[axis])
    for scale in (panel.xaxis, panel.yaxis):
        scale.set_minor_formatter("")  # within a decade labels would overlap
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(True, which="major", color="0.92", linewidth=0.8)


def streaming(report: Mapping[str, Any], path: Path) -> None:
    """Memory of the process over the time of one pass through the file."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    found = report["streaming"]
    rows = found["memory_over_time"]["rows"]
    seconds = [row[0] for row in rows]
    fig, axis = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
    for column, label, colour in ((1, "anonymous", "C0"), (2, "mapped from files", "0.6")):
        axis.plot(seconds, [row[column] for row in rows], color=colour, label=label)
    axis.axhline(found["file_bytes"] / 2**20, color="C3", linewidth=1.2)
    axis.text(seconds[0], found["file_bytes"] / 2**20 * 1.1, "the file", color="C3")
    axis.axhline(found["memory_bytes"] / 2**20, color="0.3", linewidth=1, linestyle="--")
    axis.text(seconds[-1], found["memory_bytes"] / 2**20 * 0.9, "memory of the machine",
              color="0.3", va="top", ha="right")  # fmt: skip
    axis.set(yscale="log", xlabel="seconds", ylabel="MiB of the process", ylim=(20, 1e5))
    axis.legend(loc="center right", frameon=False, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(True, which="major", color="0.92", linewidth=0.8)
    fig.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(fig)
