"""Turns a tile into SVG for the page: text as text, colours as variables, no part of a file."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ncfast.experiments.report.theme import VARIABLE
from ncfast.experiments.report.tiles import FONT, Line, Tile

CSS = """
svg.plot { display: block; width: 100%; height: auto; overflow: visible; }
.plot * { stroke-linejoin: round; }
.plot text { font: 11px system-ui, sans-serif; fill: var(--ink); }
.plot .at { opacity: 0; pointer-events: all; user-select: none; }
.plot .at:hover { opacity: 1; }
.plot .at path { fill: none; } .plot .at path + path { stroke: var(--quiet); stroke-width: .7; }
.plot .at rect { fill: var(--paper); opacity: .88; }
@media (min-width: 60rem) { .wide .plot text { font-size: 9.5px; } }
@media (max-width: 40rem) { .small .plot text { font-size: 9.5px; } }
@media print { .plot .at { display: none; } }
"""
_STRIPS = 60  # places of the hover read-out in a panel
_LETTER = 0.56  # mean width of a letter, in font sizes


def inline(tile: Tile, name: str) -> str:
    """The tile as an SVG element.

    Args:
        tile: the tile.
        name: distinguishes the ids of this picture from those of the others on the page.
    """
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "ncfast"}):
        tile.figure.savefig(buffer, format="svg", metadata={"Date": None}, dpi=72)
    width, height = (72 * side for side in tile.figure.get_size_inches())
    body = re.sub(r"^.*?<svg[^>]*>|</svg>\s*$", "", buffer.getvalue(), flags=re.DOTALL)
    return (
        f'<svg class="plot" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(tile.alt)}">{_clean(body, name)}'
        f"{_read_out(tile.axis, tile.lines, height)}</svg>"
    )


def _clean(body: str, name: str) -> str:
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)  # it would style the page
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    body = re.sub(r'( id="|url\(#|xlink:href="#)([^")]+)', rf"\1{name}-\2", body)
    body = re.sub(r"<[^>]+>", lambda found: _shortened(found[0]), body)
    body = re.sub(r"<defs>\s*</defs>|\n\s*", lambda f: "" if f[0][0] == "<" else "\n", body)
    for _ in range(3):
        body = re.sub(r"<g>\s*</g>", "", body)
    return re.sub(r">\s*\n\s*<", "><", body)


def _shortened(tag: str) -> str:
    """A tag with short numbers, without fonts, and with variables instead of colours."""
    tag = tag.replace("xlink:href", "href").replace('transform="rotate(-0 ', 'transform="rotate(0 ')
    tag = re.sub(r"font(-size|-family)?: [^;\"]*;?\s*", "", tag).replace(' style=""', "")
    tag = re.sub(r"\s+", " ", tag)
    tag = re.sub(r' transform="rotate\(0 [^)]*\)"', "", tag)
    tag = re.sub(r"\d+\.\d{2,}", lambda found: f"{round(float(found[0]), 2):g}", tag)
    return re.sub(r"#[0-9a-f]{6}", lambda found: VARIABLE.get(found[0], found[0]), tag)


def _read_out(axis: Axes, lines: Sequence[Line], height: float) -> str:
    """Strips over the panel; one that the pointer is over shows the step and the values there."""
    if not lines:
        return ""
    steps = _places(lines, linear=axis.get_xscale() == "linear")
    box = axis.get_window_extent()
    x = axis.transData.transform(np.column_stack([steps, np.ones(len(steps))]))[:, 0]
    inside = (x >= box.x0 - 0.5) & (x <= box.x1 + 0.5)
    steps, x = steps[inside], x[inside]
    edges = [box.x0, *((x[1:] + x[:-1]) / 2), box.x1]
    top, bottom = height - box.y1, height - box.y0
    parts = []
    for step, at, left, right in zip(steps, x, edges, edges[1:], strict=False):
        starts = at < (box.x0 + box.x1) / 2
        place = f'x="{at + 5 if starts else at - 5:.1f}"'
        rows = [f"<tspan {place}>step {step:,}</tspan>"]
        rows += [
            f'<tspan {place} dy="{1.2 * FONT:g}" style="fill:{VARIABLE[line.colour]}">'
            f"{escape(line.label)} {line.text(line.at(step))}</tspan>"
            for line in lines
        ]
        width = _LETTER * FONT * max(len(re.sub("<[^>]*>", "", row)) for row in rows)
        box_left = at + 2 if starts else at - 2 - width
        parts.append(
            f'<g class="at"><path d="M{left:.1f} {top:.1f}H{right:.1f}V{bottom:.1f}H{left:.1f}z"/>'
            f'<path d="M{at:.1f} {top:.1f}V{bottom:.1f}"/><rect x="{box_left:.1f}" y="{top:.1f}" '
            f'width="{width:.0f}" height="{FONT * (1.2 * len(rows) + 0.3):.0f}"/>'
            f'<text y="{top + FONT:.1f}" text-anchor="{"start" if starts else "end"}">'
            f"{''.join(rows)}</text></g>"
        )
    return "".join(parts)


def _places(lines: Sequence[Line], *, linear: bool) -> NDArray[np.int64]:
    """At most `_STRIPS` steps at which all curves have a value, evenly spaced on the axis."""
    common = set.intersection(*(set(line.steps.tolist()) for line in lines))
    steps = np.array(sorted(common or {s for line in lines for s in line.steps.tolist()}))
    marks = np.geomspace(1, steps[-1] + 1, _STRIPS) - 1
    if linear:
        marks = np.linspace(steps[0], steps[-1], _STRIPS)
    return np.unique(steps[np.searchsorted(steps, marks).clip(max=len(steps) - 1)])
