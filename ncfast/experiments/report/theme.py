"""Colours and line styles of the figures, and the same colours as variables of the page's style."""

from __future__ import annotations

from typing import Any

TRAIN, TEST = "#2b5fa3", "#bf5415"
ERROR, TRACE, PROJECTED, ESTIMATE = "#444444", "#a34783", "#5b4ea1", "#2f7d48"
INK, QUIET, GRID = "#1d2430", "#5b6575", "#e6e6e6"
EVENT_COLOURS = {"fit": TRAIN, "generalisation": TEST, "collapse": ESTIMATE}
# Dashes tell the events apart on paper, and for readers who do not see the colours.
EVENT_DASHES: dict[str, Any] = {
    "fit": (0, (7, 2)),
    "generalisation": (0, (1.5, 1.5)),
    "collapse": (0, (7, 2, 1.5, 2)),
}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
}

# The name of each colour's variable, and its value in a dark scheme.
_VARIABLES = {
    TRAIN: ("train", "#7fb2f0"),
    TEST: ("test", "#f2a06a"),
    ESTIMATE: ("estimate", "#7fcf98"),
    TRACE: ("trace", "#e08cc4"),
    PROJECTED: ("projected", "#b3a8f2"),
    ERROR: ("error", "#c9ced6"),
    INK: ("ink", "#e4e8ee"),
    QUIET: ("quiet", "#a3adbb"),
    GRID: ("grid", "#343b46"),
    "#000000": ("axis", "#a3adbb"),
}
VARIABLE = {colour: f"var(--{name})" for colour, (name, _) in _VARIABLES.items()}


def declarations(*, dark: bool) -> str:
    """The variables as CSS declarations, for a light or a dark scheme."""
    return "".join(
        f"--{name}:{other if dark else colour};" for colour, (name, other) in _VARIABLES.items()
    )
