"""Writes the HTML page: self-contained, with figures as SVG elements, without scripts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape
from zlib import crc32

from ncfast.experiments.report import svg, theme
from ncfast.experiments.report.figures import Drawing
from ncfast.experiments.report.runs import Run
from ncfast.experiments.report.tiles import TileRow

_LIGHT = "--paper:#fff;--line:#e3e6eb;--yes:#22703a;--no:#a3361f;--open:#7a6415;"
_LIGHT += theme.declarations(dark=False)
_DARK = "--paper:#14181f;--line:#343b46;--yes:#7fcf98;--no:#f2917c;--open:#d9c56b;"
_DARK += theme.declarations(dark=True)
_COLOURS = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
"""
_CSS = """
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 74rem; margin: 2rem auto; padding: 0 1rem; }
p, figcaption { max-width: 46rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin-bottom: .2rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; } h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
.lead { font-size: 1.05rem; } .quiet { color: var(--quiet); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); }
th { vertical-align: bottom; } td:first-child { white-space: nowrap; }
td.number, th.number { text-align: right; }
table.verdicts td { vertical-align: top; white-space: normal; max-width: 36rem; }
td.confirmed, td.not-confirmed, td.cannot-tell { font-weight: 600; }
@media (min-width: 40rem) { td.confirmed, td.not-confirmed, td.cannot-tell { min-width: 9rem; } }
td.confirmed { color: var(--yes); } td.not-confirmed { color: var(--no); }
td.cannot-tell { color: var(--open); }
details { margin: 1rem 0; overflow-wrap: anywhere; } code { font-size: .9em; }
@media (max-width: 40rem) {
  body { margin: 1rem auto; }
  table.verdicts, .verdicts tbody, .verdicts tr, .verdicts td { display: block; }
  .verdicts thead { display: none; } .verdicts td { border: 0; padding: .1rem 0; }
  .verdicts tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
}
"""
_PLOTS = """
.figure { margin: .6rem 0 1.2rem; } .figure figcaption { color: var(--quiet); font-size: .9rem; }
.figure .name { font-weight: 600; font-size: .92rem; margin: .9rem 0 .1rem; color: var(--ink); }
.figure .keys { font-size: .85rem; margin: 0 0 .3rem; color: var(--ink); max-width: none; }
.figure .keys span { white-space: nowrap; margin-right: .9rem; }
.figure .keys svg { width: 22px; height: 8px; margin-right: .3rem; }
.figure .tile p { font-size: .85rem; margin: .4rem 0 0; color: var(--quiet); line-height: 1.3; }
.wide, .small { display: grid; gap: .4rem 2rem; align-items: end;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); }
.small { gap: .4rem 1.2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr)); }
.pair { align-items: start; } .pair .wide { display: block; }
"""

METRICS = {
    "accuracy": "accuracy",
    "loss": "loss",
    "rnc1.max": "RNC1, max norm",
    "rnc1.mean": "RNC1, mean norm",
    "nc1.quotient": "NC1, Tr Σ_W / Tr Σ_B",
    "nc1.cdnv": "CDNV",
    "nc2.condition": "NC2, condition number",
    "nc2.equinorm": "NC2, equinorm",
    "nc2.equiangular": "NC2, equiangularity",
    "nc2.etf_error": "NC2, distance to ETF",
}


def number(value: float | None) -> str:
    """A number with four significant digits, an integer in full, a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """An HTML table; columns after the first ``text_columns`` are numbers."""

    def cells(tag: str, values: Sequence[str]) -> str:
        kinds = ["" if i < text_columns else ' class="number"' for i in range(len(values))]
        return "".join(
            f"<{tag}{kind}>{escape(value)}</{tag}>"
            for kind, value in zip(kinds, values, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{cells("th", head)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def figures(drawings: Sequence[Drawing], *, files: bool = True) -> list[str]:
    """The HTML of figures under their headings; two that are small stand beside each other."""
    parts, open_pair = [], False
    for drawing in drawings:
        small = sum(len(row.tiles) for row in drawing.tiles) == 1
        if small != open_pair:
            parts.append('<div class="wide pair">' if small else "</div>")
            open_pair = small
        title = f"<h2>{escape(drawing.title)}</h2>"
        parts.append(f"<section>{title}{picture_of(drawing, files=files)}</section>")
    return [*parts, "</div>"] if open_pair else parts


def picture_of(drawing: Drawing, *, files: bool = True) -> str:
    """The HTML of a figure: its tiles, its caption, and the names of its files.

    Args:
        drawing: the figure.
        files: whether the PNG file and the CSV file lie beside the page.
    """
    wide = all(len(row.tiles) == 1 for row in drawing.tiles)
    rows = "".join(
        _tiles(row, f"{drawing.name}-{number}", inside=wide)
        for number, row in enumerate(drawing.tiles)
    )
    if wide:
        rows = f'<div class="wide">{rows}</div>'
    names = f" (<code>{drawing.name}.png</code>, <code>{drawing.name}.csv</code>)" if files else ""
    caption = f"<figcaption>{escape(drawing.caption)}{names}</figcaption>"
    return f'<figure class="figure">{rows}{caption}</figure>'


def _tiles(row: TileRow, name: str, *, inside: bool) -> str:
    """The tiles of a row under their legend; ``inside`` a grid that holds several rows."""
    head = f'<p class="name">{escape(row.title)}</p>' if row.title else ""
    if row.keys:
        keys = "".join(_key(*key) for key in row.keys)
        head += f'<p class="keys">{keys}</p>'
    parts = [
        '<div class="tile">'
        + (f"<p>{escape(tile.title)}</p>" if tile.title else "")
        + svg.inline(tile, f"{name}-{number}")
        + "</div>"
        for number, tile in enumerate(row.tiles)
    ]
    if inside:
        return f"<div>{head}{''.join(parts)}</div>"
    return f'{head}<div class="{"small" if row.small else "wide"}">{"".join(parts)}</div>'


def _key(label: str, colour: str, dotted: bool) -> str:
    """An entry of a legend."""
    look = f"stroke:{theme.VARIABLE.get(colour, colour)};stroke-width:2.5"
    if dotted:
        look += ";stroke-dasharray:2.5 2.5"
    return (
        f'<span><svg viewBox="0 0 22 8" aria-hidden="true"><path d="M0 4H22" style="{look}"/>'
        f"</svg>{escape(label)}</span> "
    )


def fragment(drawing: Drawing, title: str, text: str) -> str:
    """A figure below a title and a text, with the style that it needs: for a notebook."""
    style = f".ncfast {{ {_LIGHT} }} {_PLOTS} {svg.CSS}"
    dark = f"@media (prefers-color-scheme: dark) {{ .ncfast {{ {_DARK} }} }}"
    box = ".ncfast { color: var(--ink); background: var(--paper); padding: 1rem; }"
    head = f"<h3>{escape(title)}</h3><p>{escape(text)}</p>"
    # the ids of the picture may not be those of another run in the notebook
    named = replace(drawing, name=f"{drawing.name}-{crc32(repr(drawing.rows).encode()):x}")
    return (
        f"<style>{style} {dark} {box}</style>"
        f'<div class="ncfast">{head}{picture_of(named, files=False)}</div>'
    )


def story(run: Run) -> str:
    """Summarises the events of a run in two or three sentences."""
    events = run.events
    if events.fit is None:
        return f"The training images were not fitted within {run.last_step:,} steps."
    test = run.last("test/accuracy")
    text = f"The training images were fitted at step {events.fit:,}. "
    if events.generalisation is None:
        text += "Test accuracy has not risen with it or after it. "
    elif events.generalisation > events.fit:
        lag = events.generalisation - events.fit
        text += (
            f"Test accuracy reached 90 % of its best at step {events.generalisation:,}, "
            f"{lag:,} steps later, and ended at {number(test)}. "
        )
    else:
        text += f"Test accuracy was at 90 % of its best by then, and ended at {number(test)}. "
    if events.collapse is None:
        return text + "RNC1 did not fall to a fifth of its value at the fit."
    return text + f"RNC1 fell to a fifth of its value at the fit by step {events.collapse:,}."


def events_table(runs: Sequence[Run], labels: Sequence[str]) -> str:
    """The table of events and lags, with one row per run."""
    names = list(runs[0].events.lags)
    head = ["run", "fit", "generalisation", "collapse", *(f"lag: {name}" for name in names)]
    rows = [
        [label, *(number(x) for x in (e.fit, e.generalisation, e.collapse, *e.lags.values()))]
        for label, e in zip(labels, (run.events for run in runs), strict=True)
    ]
    return table(head, rows) + (
        '<p class="quiet">All numbers are steps. Fit: the training accuracy is at least 0.99. '
        "Generalisation: the test accuracy is at least 90 % of its best, if it ever rises by 0.2. "
        "Collapse: RNC1 (max norm, train) is at most a fifth of its value at the fit. An event "
        "counts if its condition holds at nine of ten log points up to twice its step. Its step "
        "is accurate to one log point.</p>"
    )


def final_table(run: Run) -> str:
    """The table of the last values on both splits."""
    rows = [
        [label, number(run.last(f"train/{key}")), number(run.last(f"test/{key}"))]
        for key, label in METRICS.items()
    ]
    rows.append(["weight norm (global L2)", number(run.last("weight.norm")), ""])
    return table(["", "train", "test"], rows)


def settings_table(run: Run) -> str:
    """The settings, versions and conventions of a run, as folded tables."""
    skip = {"out", "resume", "download", "data_dir"}
    rows = [[name, str(value)] for name, value in run.settings.items() if name not in skip]
    versions = ", ".join(f"{name} {value}" for name, value in run.config["versions"].items())
    rows.append(["versions", versions])
    conventions = table(["term", "meaning"], run.config["conventions"].items(), text_columns=2)
    return (
        f"<details><summary>Settings</summary>{table(['setting', 'value'], rows, text_columns=2)}"
        f"</details><details><summary>Conventions</summary>{conventions}</details>"
    )


def page(title: str, body: str, reload_seconds: int | None = None) -> str:
    """The HTML document; with ``reload_seconds`` a browser reads it again at that interval."""
    again = "" if reload_seconds is None else _reloading(reload_seconds)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{again}'
        f"<style>{_COLOURS}{_CSS}{_PLOTS}{svg.CSS}</style></head><body>{body}</body></html>\n"
    )


def _reloading(seconds: int) -> str:
    return f'<meta http-equiv="refresh" content="{seconds}">'
