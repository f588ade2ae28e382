"""Writes the HTML page: self-contained, with embedded figures, without scripts."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape

from ncfast.experiments.report.figures import Drawing, to_bytes
from ncfast.experiments.report.runs import Run

_CSS = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #1d2430; background: #fff;
       max-width: 78rem; margin: 2rem auto; padding: 0 1rem; }
p, figcaption { max-width: 50rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
.lead { font-size: 1.05rem; } .quiet { color: #5b6575; font-size: .9rem; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid #e3e6eb; }
th { vertical-align: bottom; } td:first-child { white-space: nowrap; }
td.number, th.number { text-align: right; }
table.verdicts td { vertical-align: top; min-width: 7rem; max-width: 32rem; white-space: normal; }
td.confirmed, td.not-confirmed, td.cannot-tell { font-weight: 600; }
td.confirmed { color: #22703a; } td.not-confirmed { color: #a3361f; }
td.cannot-tell { color: #7a6415; }
figcaption { color: #5b6575; font-size: .9rem; }
details { margin: 1rem 0; } code { font-size: .9em; }
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


def picture_of(drawing: Drawing) -> str:
    """The HTML of an embedded figure, with its caption and the names of its files."""
    data = base64.b64encode(to_bytes(drawing.figure, "svg")).decode()
    return (
        f'<figure><img alt="{escape(drawing.title)}. {escape(drawing.caption)}" '
        f'src="data:image/svg+xml;base64,{data}"><figcaption>{escape(drawing.caption)} '
        f"(<code>{drawing.name}.png</code>, <code>{drawing.name}.csv</code>)</figcaption></figure>"
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


def page(title: str, body: str) -> str:
    """The HTML document."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_CSS}</style></head><body>{body}</body></html>\n"
    )
