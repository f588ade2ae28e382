"""Claims about features: collapse in other networks, more data, information, margins, bound."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ncfast.experiments.report.claims.verdict import (
    CONFIRMED,
    DENIED,
    OPEN,
    Verdict,
    share,
    span,
    trend,
)
from ncfast.experiments.report.probes import read_probes
from ncfast.experiments.report.runs import Run
from ncfast.tracking.analytics.events import first_lasting, series

RNC1, RNC1_TEST, NC1_TEST = "train/rnc1.max", "test/rnc1.max", "test/nc1.quotient"
FOLLOWS = -0.8  # rank correlation with the test accuracy, at most, of a metric that follows it
SPIKE = 0.2  # a class is a spike at this share of its width at the fit


def collapsed_at_the_fit(runs: Sequence[Run]) -> Verdict:
    """Whether RNC1 has made half of its fall, on a log axis, when the network first fits."""
    parts = []
    for run in runs:
        steps, values = series(run.records, RNC1)
        fit = run.events.fit
        if fit is None or not (steps <= fit).any() or not values[-1] < 2 / 3 * values[0]:
            continue
        start, at_fit, end = values[0], values[steps <= fit][-1], max(values[-1], 1e-300)
        parts.append(float(np.log(start / at_fit) / np.log(start / end)))
    return share(
        "It has collapsed when it first fits: by then RNC1 (train) has made half of its fall, on a "
        "log scale.",
        [part >= 0.5 for part in parts],
        f"Share of the fall: {span(parts)}."
        if parts
        else "This needs a fit and a fall by a third.",
        len(runs) - len(parts),
    )


def nc1_follows(runs: Sequence[Run]) -> Verdict:
    """Whether NC1 falls as the test accuracy rises and RNC1 does not."""
    ranks = [(_rank(run, NC1_TEST), _rank(run, RNC1_TEST)) for run in runs]
    pairs = [pair for pair in ranks if all(map(math.isfinite, pair))]
    return share(
        "NC1 (unseen data) follows the test accuracy, and RNC1 does not.",
        [one <= FOLLOWS < other for one, other in pairs],
        f"Rank correlation with the test accuracy: NC1 {span([p[0] for p in pairs])}, RNC1 "
        f"{span([p[1] for p in pairs])}; it follows at {FOLLOWS:g} or less.",
        len(runs) - len(pairs),
    )


def _rank(run: Run, key: str) -> float:
    """Rank correlation of ``key`` with the test accuracy over the log points; NaN if undefined."""
    other = "test/accuracy"
    pairs = [(r[key], r[other]) for r in run.records if key in r and other in r]
    if len(pairs) < 3 or any(len(set(column)) < 2 for column in zip(*pairs, strict=True)):
        return math.nan
    return float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)


def more_data_is_earlier(runs: Sequence[Run]) -> Verdict | None:
    """Whether runs with more training samples generalise earlier."""
    return trend(
        "More training samples generalise earlier.",
        "N",
        "generalised",
        [(float(run.settings.get("train_size") or 0), run.events.generalisation) for run in runs],
    )


def information_is_earlier(runs: Sequence[Run]) -> Verdict | None:
    """Whether the log-det bound of unseen data halves earlier with larger weight decay."""
    prefix = "test/bound.superfluous@"
    keys = sorted({k for run in runs for r in run.records for k in r if k.startswith(prefix)})
    if not keys:
        return None
    return trend(
        "Superfluous information (its log-det bound, unseen data, half of its first value) falls "
        "earlier with larger weight decay.",
        "λ",
        "got there",
        [(float(run.settings["weight_decay"]), _halved(run, keys[0])) for run in runs],
    )


def _halved(run: Run, key: str) -> int | None:
    steps, values = series(run.records, key)
    return first_lasting(steps, values <= values[0] / 2) if len(steps) else None


def margins_collapse(runs: Sequence[Run]) -> Verdict | None:
    """Whether training margins become spikes after the fit, and those of unseen samples later."""
    found = [widths for run in runs if (widths := _widths_after_fit(run)) is not None]
    if not found:
        return None
    return share(
        "Margins between classes collapse to points after the fit, those of unseen samples later: "
        "the width of the training margins falls to a fifth, and unseen ones are wider throughout.",
        [w[-1, 0] <= SPIKE * w[0, 0] and bool((w[:, 1] > w[:, 0]).all()) for w in found],
        f"Standard deviation over distance, train: {span([float(w[0, 0]) for w in found])} at the "
        f"fit, {span([float(w[-1, 0]) for w in found])} at the end; unseen: "
        f"{span([float(w[0, 1]) for w in found])} and {span([float(w[-1, 1]) for w in found])}.",
        len(runs) - len(found),
    )


def _widths_after_fit(run: Run) -> NDArray[np.float64] | None:
    """Relative width of the margins on both splits, (probes, 2), from the probe at the fit on."""
    probes = [probe for probe in read_probes(run) if probe.get("margins")]
    if run.events.fit is None or not probes:
        return None
    steps = np.array([probe["step"] for probe in probes])
    start = int(np.abs(np.log1p(steps) - np.log1p(run.events.fit)).argmin())
    widths = np.array(
        [[_width(p["margins"], s) for s in ("train", "test")] for p in probes[start:]]
    )
    return widths if len(widths) >= 2 and np.isfinite(widths).all() else None


def _width(margins: Mapping[str, Any], split: str) -> float:
    """Standard deviation of the margins over their mean, averaged over pairs and their classes."""
    counts = np.array(margins["counts"][split], float)  # (pairs, 2, bins)
    bins = counts.shape[2]
    centres = (np.arange(bins) + 0.5) * 2 * margins["edge"] / bins - margins["edge"]
    total = np.maximum(counts.sum(2), 1)
    mean = (counts * centres).sum(2) / total
    variance = (counts * np.square(centres - mean[..., None])).sum(2) / total
    return round(float((np.sqrt(variance) / np.maximum(np.abs(mean), 1e-300)).mean()), 6)


def information_falls(runs: Sequence[Run]) -> Verdict | None:
    """Whether superfluous information falls after the fit and not before it."""
    found: list[tuple[float, float, float]] = []
    for run in runs:
        keys = sorted(
            {k for r in run.records for k in r if k.startswith("test/bound.superfluous@")}
        )
        for key in keys[:1]:
            steps, values = series(run.records, key)
            fit = run.events.fit
            if fit is not None and (steps <= fit).any() and (steps > fit).any():
                at_fit = float(values[steps <= fit][-1])
                found.append((float(values[0]), at_fit, float(values[-1])))
    if not found:
        return None
    return share(
        "Superfluous information (its log-det bound, unseen data) falls after the fit and not "
        "before it.",
        [last < 0.7 * fit and fit > 0.7 * first for first, fit, last in found],
        f"Nats at the start {span([a for a, _, _ in found])}, at the fit "
        f"{span([b for _, b, _ in found])}, at the end {span([c for _, _, c in found])}.",
    )


def bound_holds(runs: Sequence[Run]) -> Verdict | None:
    """Whether the generalisation bound is above the measured error.

    An error is at most 1, so only a bound below 1 can fail.
    """
    checked, telling, broken, last = 0, 0, 0, []
    for run in runs:
        for record in run.records:
            error = record.get("test/error")
            bounds = [
                record[key]
                for key in ("test/bound.generalization_trace", "test/bound.generalization")
                if key in record and math.isfinite(record[key])
            ]
            if error is not None and bounds:
                checked += 1
                telling += min(bounds) < 1
                broken += min(bounds) < error - 1e-9
        found = run.last("test/bound.generalization")
        if found is not None and math.isfinite(found):
            last.append(found)
    if not checked:
        return None
    text = (
        f"At {checked - broken:,} of {checked:,} log points; at {telling:,} of them it is below "
        "one and can fail"
    )
    text += f", at the other {checked - telling:,} it is empty." if checked > telling else "."
    if last:
        errors = [error for run in runs if (error := run.last("test/error")) is not None]
        text += f" The projected bound ends at {span(last)}, the error at {span(errors)}."
    return Verdict(
        "The generalisation bound is above the measured error.",
        DENIED if broken else CONFIRMED if telling else OPEN,
        text,
        here=None if len(runs) > 1 or not (broken or telling) else not broken,
        empty=not (broken or telling),
    )
