"""What a report says, for programs: events, time scales, last values, verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ncfast.experiments.report.runs import Run
from ncfast.experiments.report.scaling import (
    balance_rate,
    decay_law,
    laws_by_level,
    time_scales,
)
from ncfast.experiments.report.verdicts import verdicts

_TOLD = ("dataset", "model", "loss", "optimizer", "train_size", "init_scale", "lr")
_TOLD_RUN = ("weight_decay", "seed")


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Plain dicts, lists and numbers; None for what did not happen or is not finite."""
    scales = time_scales(runs)
    laws = {
        name: decay_law(runs, times)
        for name, times in (("tau_1", scales.tau1), ("tau_2", scales.tau2))
    }
    return {
        "versions": runs[0].config["versions"],
        "settings": {name: runs[0].settings.get(name) for name in _TOLD},
        "eps_2": scales.eps2,
        "power laws of weight decay": {
            name: None if law is None else asdict(law) for name, law in laws.items()
        },
        "power laws of tau_2 by level of RNC1": [
            {"eps_2": eps, **asdict(law)} for eps, law in laws_by_level(runs)
        ],
        "verdicts": [asdict(verdict) for verdict in verdicts(runs)],
        "runs": [
            _run(run, one, two)
            for run, one, two in zip(runs, scales.tau1, scales.tau2, strict=True)
        ],
    }


def _run(run: Run, tau1: int | None, tau2: int | None) -> dict[str, Any]:
    rate = balance_rate(run)
    last = {
        key: value if math.isfinite(value) else None
        for key, value in run.records[-1].items()
        if key != "step"
    }
    found = {name: run.settings.get(name) for name in _TOLD_RUN}
    found |= {"run": run.path.name, "events": asdict(run.events), "tau_1": tau1, "tau_2": tau2}
    if rate is not None:
        found["balancedness rate over 2 eta lambda"] = asdict(rate)
    return {**found, "last step": run.last_step, "last": last}
