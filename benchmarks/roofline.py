"""Roofline: operations per second against operations per byte, below the limits of the same run.

`ncfast.benchmarks.page` draws it from a result file. Cases with warm caches are left out, because
memory does not limit them. So are cases without a number of bytes or operations. The operations are
those of the plain algorithm, so a tree, which skips most of them, may be above the roof.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ncfast.benchmarks import ceilings
from ncfast.benchmarks.report.operations import others, ours

INK, GREY = "0.15", "0.6"
MARKERS = "osD^vP*Xd<>hp"


class Point(NamedTuple):
    """One case of one contestant."""

    operation: str
    who: str  # "ncfast" or "other", the fastest right one
    intensity: float  # operations per byte
    speed: float  # operations per second


def points(report: Mapping[str, Any]) -> list[Point]:
    """ncfast and its fastest right rival in every case that memory or arithmetic may limit."""
    return [
        Point(operation, who, entry["flops"] / entry["bytes"], entry["flops"] / result["median_s"])
        for operation, entries in report["operations"].items()
        for entry in entries
        if entry["flops"] and entry["bytes"] and entry["case"]["caches"] == "cold"
        for who, result in _pair(entry)
    ]


def _pair(entry: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    mine, rivals = ours(entry), others(entry)
    if mine is not None:
        yield "ncfast", mine
    if rivals:
        yield "other", rivals[0]


def figure(report: Mapping[str, Any], path: Path) -> bool:
    """Draw the roofline; returns False, and writes no file, if there is no point."""
    found = points(report)
    if not found:
        return False
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    limits = ceilings.current(report["ceilings"])
    read, gemm = limits["read_bytes_per_s"], limits["gemm_flops_per_s"]
    fig, axis = plt.subplots(figsize=(8.6, 4.6), constrained_layout=True)
    left = min(0.25, *(point.intensity / 2 for point in found))
    right = max(4 * gemm / read, *(2 * point.intensity for point in found))
    ridge = gemm / read
    axis.plot([left, ridge, right], [left * read, gemm, gemm], color=INK, linewidth=1.6)
    slope = 0.55 * ridge  # a free place near the top of the sloping part
    axis.annotate(f"read {read / 1e9:.0f} GB/s", (slope, slope * read), xytext=(-8, 4),
                  textcoords="offset points", ha="right", color=INK, fontsize=9)  # fmt: skip
    axis.annotate(f"float32 product {gemm / 1e9:.0f} GFLOP/s", (right, gemm), xytext=(-4, 5),
                  textcoords="offset points", ha="right", color=INK, fontsize=9)  # fmt: skip
    _scatter(axis, found)
    lowest = min(left * read, *(point.speed for point in found))
    highest = max(gemm, *(point.speed for point in found))
    axis.set(xscale="log", yscale="log", xlim=(left, right), ylim=(lowest / 2, 3 * highest))
    axis.set_xlabel("operations of the plain algorithm a byte of input and output")
    axis.set_ylabel("operations a second")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(True, which="major", color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
    _legend(axis, [point.operation for point in found])
    fig.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(fig)
    return True


def _scatter(axis: Any, found: Sequence[Point]) -> None:
    names = list(dict.fromkeys(point.operation for point in found))
    for number, name in enumerate(names):
        for who in ("other", "ncfast"):
            chosen = [p for p in found if (p.operation, p.who) == (name, who)]
            colour = f"C{number % 10}"
            axis.scatter(
                [p.intensity for p in chosen],
                [p.speed for p in chosen],
                marker=MARKERS[number % len(MARKERS)],
                s=36,
                facecolor=colour if who == "ncfast" else "white",
                edgecolor=colour,
                zorder=3 if who == "ncfast" else 2,
            )


def _legend(axis: Any, operations: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    def entry(label: str, marker: str, edge: str, face: str) -> Line2D:
        return Line2D([], [], linestyle="", label=label, marker=marker, color=edge,
                      markerfacecolor=face)  # fmt: skip

    handles = [
        entry(name, MARKERS[number % len(MARKERS)], f"C{number % 10}", f"C{number % 10}")
        for number, name in enumerate(dict.fromkeys(operations))
    ]
    handles += [
        entry("filled: ncfast", "o", GREY, GREY),
        entry("hollow: fastest other\nthat is right", "o", GREY, "white"),
    ]
    axis.figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
