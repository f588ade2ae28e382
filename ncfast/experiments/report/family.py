"""Runs that differ in their seed alone, and the band their curves fill."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ncfast.experiments.report.runs import Run
from ncfast.tracking.timescales import series

_SHORT = {
    "weight_decay": "λ",
    "lr": "lr",
    "init_scale": "init ×",
    "train_size": "N",
    "loss": "loss",
    "model": "model",
    "dataset": "data",
    "optimizer": "optimiser",
}
_SKIP = {"out", "resume", "data_dir", "download", "device", "seed", "checkpoint_every"}


@dataclass(frozen=True)
class Family:
    """Runs of the same settings but for the seed.

    Attributes:
        label: the settings in which this family differs from the others.
        runs: in the order of their seeds.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def weight_decay(self) -> float:
        """Its lambda."""
        return float(self.runs[0].settings["weight_decay"])


@dataclass(frozen=True)
class Band:
    """A curve over seeds: mean, smallest and largest value at each step that all runs logged."""

    steps: NDArray[np.int64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def families(runs: Sequence[Run]) -> list[Family]:
    """The runs by their settings, larger weight decay first."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        kept = {k: v for k, v in run.settings.items() if k not in _SKIP}
        groups.setdefault(str(sorted(kept.items(), key=str)), []).append(run)
    members = sorted(groups.values(), key=lambda g: -float(g[0].settings["weight_decay"]))
    labels = _labels([group[0] for group in members])
    return [
        Family(label, tuple(sorted(group, key=lambda r: int(r.settings["seed"]))))
        for label, group in zip(labels, members, strict=True)
    ]


def _labels(runs: Sequence[Run]) -> list[str]:
    names = [name for name in runs[0].settings if name not in _SKIP]
    differ = [name for name in names if len({str(run.settings.get(name)) for run in runs}) > 1]
    return [_label(run, differ or ["weight_decay"]) for run in runs]


def _label(run: Run, names: Iterable[str]) -> str:
    def told(name: str) -> str:
        value = run.settings.get(name)
        text = f"{value:g}" if isinstance(value, float) else str(value)
        return f"{_SHORT.get(name, name)} = {text}"

    return ", ".join(told(name) for name in names)


def band(family: Family, key: str) -> Band | None:
    """The band of ``key``; None when a run has no such value."""
    found = [
        dict(zip(*(v.tolist() for v in series(r.records, key)), strict=True)) for r in family.runs
    ]
    common = sorted(set.intersection(*(set(one) for one in found)))
    if not common:
        return None
    values = np.array([[one[step] for step in common] for one in found])
    return Band(np.array(common), values.mean(0), values.min(0), values.max(0))
