"""Writes the text of the page: summaries, verdicts and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ncfast.experiments.effects import RULE
from ncfast.experiments.report import page
from ncfast.experiments.report.claims import CONFIRMED, DENIED, Verdict, verdicts
from ncfast.experiments.report.effects import OUTCOMES, effect_rows, effects_table
from ncfast.experiments.report.figures import Drawing
from ncfast.experiments.report.page import number, table
from ncfast.experiments.report.runs import Run, RunGroup, arms, run_groups
from ncfast.experiments.report.scaling import (
    TimeScales,
    decay_law,
    laws_by_level,
    slope_text,
    time_scales,
)
from ncfast.experiments.sweep_file import SWEEP, load_sweep
from ncfast.tracking.analytics import lags_over_seeds
from ncfast.tracking.analytics.events import find_events

_FINAL = {
    "train/accuracy": "train accuracy",
    "test/accuracy": "test accuracy",
    "train/rnc1.max": "RNC1 train",
    "test/rnc1.max": "RNC1 test",
    "train/nc2.condition": "NC2 train",
    "test/nc1.quotient": "NC1 test",
    "weight.norm": "weight norm",
}


def one_run(run: Run, overview: Drawing, *, files: bool = True) -> list[str]:
    """The summary, overview, verdicts, events and last values of a run.

    Args:
        run: the run.
        overview: its first figure.
        files: whether the files of the figure lie beside the page.
    """
    return [
        f'<p class="lead">{escape(page.story(run))}</p>',
        page.picture_of(overview, files=files),
        "<h2>What the run says</h2>",
        _verdict_table([run]),
        "<h2>Events</h2>",
        page.events_table([run], [run.path.name or str(run.path)]),
        f"<h3>Values at step {run.last_step:,}</h3>",
        page.final_table(run),
    ]


def several_runs(runs: Sequence[Run], directories: Sequence[Path]) -> tuple[str, list[str]]:
    """The title of several runs, and their verdicts and tables."""
    title, about = _title(runs, directories)
    labels = _names(runs)
    groups = arms(runs, directories)
    if groups:
        return title, _arm_tables(groups)
    parts = [f'<p class="lead">{escape(about)}</p>'] if about else []
    parts += [
        "<h2>What the runs say</h2>",
        _verdict_table(runs),
        "<h2>Events</h2>",
        page.events_table(runs, labels),
        "<h3>From the fit to the generalisation, over the seeds</h3>",
        _lags_table(runs),
        "<h3>Time scales</h3>",
        _scales_table(runs, labels),
        "<h2>Last values</h2>",
        table(
            ["run", "step", *_FINAL.values()],
            [
                [label, number(run.last_step), *(number(run.last(key)) for key in _FINAL)]
                for label, run in zip(labels, runs, strict=True)
            ],
        ),
    ]
    return title, parts


def _arm_tables(groups: Sequence[RunGroup]) -> list[str]:
    control = groups[0].label
    parts = [
        f'<p class="lead">Arms against the control {escape(control)}, paired within a seed: '
        f"{escape(', '.join(group.label for group in groups[1:]))}.</p>"
    ]
    running = [group.label for group in groups if not all(run.finished for run in group.runs)]
    if running:
        parts.append(f"<p>Not ended, and without numbers: {escape(', '.join(running))}.</p>")
    tabled = False
    for outcome, (words, _) in OUTCOMES.items():
        rows = effect_rows(groups, outcome)
        if rows:
            tabled = True
            parts += [f"<h2>Effects on the {words}</h2>", effects_table(rows)]
    told = [
        f"No effect: the interval lies within {100 * RULE.band:g} %.",
        f"Earlier, later: at least {100 * RULE.least:g} % in every pair.",
        f"Did not take: a run with a training accuracy below {RULE.fit:g} at more than "
        f"{100 * (1 - RULE.fitted):g} % of its log points, or a quantity that the penalty did not "
        f"move to {RULE.down:g} or {RULE.up:g} times the control's.",
        "Cannot tell: all other cases.",
    ]
    return [*parts, f'<p class="quiet">{" ".join(told)}</p>'] if tabled else parts


def _names(runs: Sequence[Run]) -> list[str]:
    """The folder names of the runs; with their parents', or full paths, if two are equal."""
    for names in (
        [run.path.name for run in runs],
        [f"{run.path.parent.name}/{run.path.name}" for run in runs],
    ):
        if all(names) and len(set(names)) == len(names):
            return names
    return [str(run.path) for run in runs]


def _title(runs: Sequence[Run], directories: Sequence[Path]) -> tuple[str, str]:
    first = runs[0].settings
    title = f"{len(runs)} runs: {first['model'].upper()} on {first['dataset']}"
    if len({(run.settings["model"], run.settings["dataset"]) for run in runs}) > 1:
        title = f"{len(runs)} runs"
    if len(directories) > 1 or not (directories[0] / SWEEP).exists():
        return title, ""
    from ncfast.experiments.presets import PRESETS

    settings = load_sweep(directories[0])["settings"]
    preset = settings.get("preset")
    if preset not in PRESETS:
        return title, ""
    form = "quick form" if settings.get("quick") else "full form"
    return title, f"Preset {preset}, {form}. {PRESETS[preset].about}"


_MANY = (
    "The claims are those of arXiv 2509.20829, judged by these runs only. "
    "Confirmed: it holds in at least nine of ten runs, or the interval contains the "
    "prediction. Not confirmed: it holds in at most one of ten, or the interval does not "
    "contain the prediction. Cannot tell: all other cases, or too few runs."
)
_ONE = (
    "The claims are those of arXiv 2509.20829. This run shows what happened once. To judge a "
    "claim, report several seeds together."
)


def _verdict_table(runs: Sequence[Run]) -> str:
    found = verdicts(runs)
    rows = "".join(
        f'<tr><td>{escape(v.claim)}</td><td class="{_class(v)}">'
        f"{escape(v.word)}</td><td>{escape(v.numbers)}</td></tr>"
        for v in found
    )
    note = _ONE if len(runs) == 1 else _MANY
    if any(v.empty for v in found):
        note += " Empty: the bound was above one at every log point, and no error is above one."
    return (
        '<div class="scroll"><table class="verdicts"><thead><tr><th>claim</th><th>verdict</th>'
        f"<th>numbers</th></tr></thead><tbody>{rows}</tbody></table></div>"
        f'<p class="quiet">{note}</p>'
    )


def _class(verdict: Verdict) -> str:
    outcome = verdict.outcome
    if verdict.here is not None:
        outcome = CONFIRMED if verdict.here else DENIED
    return outcome.replace(" ", "-")


def _lags_table(runs: Sequence[Run]) -> str:
    """Mean lag of each group from the fit to the generalisation, with Student's interval."""
    rows = []
    for family in run_groups(runs):
        found = lags_over_seeds(
            [run.records for run in family.runs],
            start="fit",
            end="generalisation",
            events=find_events,
        )
        mean = found.interval
        rows.append([family.label, f"{mean.count}", *map(_steps, (mean.mean, mean.low, mean.high))])
    head = ["settings", "seeds", "lag: fit to generalisation", "95 % from", "to"]
    return table(head, rows)


def _steps(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "–"


def _scales_table(runs: Sequence[Run], labels: Sequence[str]) -> str:
    scales = time_scales(runs)
    rows = [
        [label, number(float(run.settings["weight_decay"])), number(one), number(two)]
        for label, run, one, two in zip(labels, runs, scales.tau1, scales.tau2, strict=True)
    ]
    text = table(["run", "weight decay", "tau_1", "tau_2"], rows)
    text += f'<p class="quiet">{escape(_scales_note(runs, scales))}</p>'
    rows = [[number(eps), slope_text(law)] for eps, law in laws_by_level(runs)]
    head = ["tau_2 at RNC1 under", "slope of log tau_2 against log λ"]
    return text + (table(head, rows, text_columns=2) if rows else "")


def _scales_note(runs: Sequence[Run], scales: TimeScales) -> str:
    note = "tau_1: training accuracy of at least 0.99. "
    if scales.eps2 is not None:
        note += (
            f"tau_2: RNC1 (max norm, train) of at most {scales.eps2:.3g}, three quarters of the "
            "smallest RNC1 at a fit. "
        )
    for name, times in (("tau_1", scales.tau1), ("tau_2", scales.tau2)):
        law = decay_law(runs, times)
        told = "too few runs" if law is None else slope_text(law)
        note += f"Slope of log {name} against log weight decay: {told}. "
    return note


def details(runs: Sequence[Run], directories: Sequence[Path]) -> list[str]:
    """The settings and conventions of the first run, folded, and a note on the other runs."""
    events = []
    if arms(runs, directories):  # a table of all seeds, after the figures
        events = ["<h2>Events</h2>", page.events_table(runs, _names(runs))]
    if len(runs) == 1:
        return [page.settings_table(runs[0])]
    return [
        *events,
        f'<p class="quiet">Settings below are those of {escape(runs[0].path.name)}; every run has '
        "its own in its config.json.</p>",
        page.settings_table(runs[0]),
    ]
