"""Judges the claims of the paper by runs: a verdict for each claim, with its numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ncfast.experiments.report.claims.features import (
    bound_holds,
    collapsed_at_the_fit,
    information_falls,
    information_is_earlier,
    margins_collapse,
    more_data_is_earlier,
    nc1_follows,
)
from ncfast.experiments.report.claims.time import (
    balance,
    does_not_grok,
    early_birds,
    falls_late,
    groks,
    larger_decay_is_earlier,
    tau1,
    tau2,
)
from ncfast.experiments.report.claims.verdict import CONFIRMED, DENIED, OPEN, Verdict
from ncfast.experiments.report.runs import Run

__all__ = ["CONFIRMED", "DENIED", "OPEN", "Verdict", "verdicts"]


def verdicts(runs: Sequence[Run]) -> list[Verdict]:
    """The verdicts on all claims that these runs can be judged by."""
    perceptrons = [run for run in runs if run.settings["model"] == "mlp"]
    others = [run for run in runs if run.settings["model"] != "mlp"]
    transformers = [run for run in runs if run.settings["model"] == "transformer"]
    asked: list[tuple[Callable[[Sequence[Run]], Verdict | None], Sequence[Run]]] = [
        (groks, perceptrons),
        (does_not_grok, others),
        (lambda r: falls_late(r, "train/rnc1.max", "RNC1 of the training features"), perceptrons),
        (lambda r: falls_late(r, "test/rnc1.max", "RNC1 of unseen features"), perceptrons),
        (lambda r: falls_late(r, "train/nc2.condition", "NC2, the condition number"), perceptrons),
        (collapsed_at_the_fit, others),
        (nc1_follows, transformers),
        (larger_decay_is_earlier, runs),
        (more_data_is_earlier, runs),
        (tau1, runs),
        (tau2, runs),
        (information_falls, runs),
        (information_is_earlier, runs),
        (margins_collapse, perceptrons),
        (bound_holds, runs),
        (early_birds, perceptrons),
        (balance, perceptrons),
    ]
    return [found for function, chosen in asked if chosen and (found := function(chosen))]
