"""Reads runs from their directories and groups runs that differ only in the seed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncfast.experiments import run_dir
from ncfast.experiments.stored import read_numbers
from ncfast.experiments.sweep_file import runs_of
from ncfast.tracking.analytics.events import Events, find_events, series


class NoRecordYet(run_dir.RunDirectoryError):
    """A run, or every replica of a sweep, is there but has not reached its first log point."""


@dataclass(frozen=True)
class Run:
    """Settings, records and events of one run.

    Attributes:
        path: the directory of the run.
        config: the content of config.json.
        records: the log, in order of steps.
        events: fit, generalisation, collapse.
    """

    path: Path
    config: dict[str, Any]
    records: list[dict[str, float]]
    events: Events

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the run."""
        return self.config["settings"]

    @property
    def title(self) -> str:
        """The model, the dataset and the weight decay, for headings."""
        s = self.settings
        return f"{s['model'].upper()} on {s['dataset']}, weight decay {s['weight_decay']:g}"

    @property
    def first_step(self) -> int:
        """Step of the first record."""
        return int(self.records[0]["step"])

    @property
    def last_step(self) -> int:
        """Step of the last record."""
        return int(self.records[-1]["step"])

    @property
    def finished(self) -> bool:
        """Whether the log reaches the last step of the settings."""
        return self.last_step >= int(self.settings["steps"])

    def _repr_html_(self) -> str:
        """The summary and the overview, for a notebook."""
        from ncfast.experiments.report import figures, page

        return page.fragment(figures.overview(self), self.title, page.story(self))

    def last(self, key: str) -> float | None:
        """The last recorded value of ``key``."""
        return next((record[key] for record in reversed(self.records) if key in record), None)


def expand_directories(directories: Sequence[Path]) -> list[Path]:
    """The directories of runs. A sweep's directory is replaced by those of its started replicas.

    Raises:
        NoRecordYet: no replica of a sweep has started.
    """
    found: list[Path] = []
    for directory in directories:
        runs = runs_of(directory)
        if runs != [directory]:
            runs = [run for run in runs if (run / run_dir.METRICS_FILE).exists()]
        if not runs:
            raise NoRecordYet(
                f"{directory} is a sweep of which no replica has a record yet. Let it reach its "
                "first log point."
            )
        found += runs
    return found


def read_run(path: Path) -> Run:
    """Read the run in ``path``.

    Raises:
        NoRecordYet: the run has no record yet.
        RunDirectoryError: there is no run, or one of its files is damaged.
    """
    config = run_dir.load_config(path)
    log = path / run_dir.METRICS_FILE
    records = read_numbers(log) if os.path.lexists(log) else []
    if not records:
        raise NoRecordYet(
            f"{path} has no record in {run_dir.METRICS_FILE} yet. Let the run reach its first "
            "log point."
        )
    for record in records:
        for split in ("train", "test"):
            if f"{split}/accuracy" in record:
                record[f"{split}/error"] = 1 - record[f"{split}/accuracy"]
    return Run(path, config, records, find_events(records))


_SHORT = {
    "weight_decay": "λ",
    "lr": "lr",
    "init_scale": "init ×",
    "train_size": "N",
    "loss": "loss",
    "model": "model",
    "dataset": "data",
    "optimizer": "optimizer",
}
_SKIP = {
    "out",
    "resume",
    "data_dir",
    "download",
    "device",
    "seed",
    "checkpoint_every",
    "start_from",
}


@dataclass(frozen=True)
class RunGroup:
    """Runs that have equal settings except for the seed.

    Attributes:
        label: the settings in which this group differs from the others.
        runs: the runs, in the order of their seeds.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def weight_decay(self) -> float:
        """The weight decay of the runs."""
        return float(self.runs[0].settings["weight_decay"])


@dataclass(frozen=True)
class Band:
    """A curve over seeds: mean, smallest and largest value at each step that all runs logged."""

    steps: NDArray[np.int64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def alone(run: Run) -> RunGroup:
    """A run as a group of its own."""
    return RunGroup("", (run,))


def run_groups(runs: Sequence[Run]) -> list[RunGroup]:
    """The runs grouped by their settings, in descending order of weight decay."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        kept = {k: v for k, v in run.settings.items() if k not in _SKIP}
        kept["start_from"] = branched(run)  # each seed branches from a run of its own
        groups.setdefault(str(sorted(kept.items(), key=str)), []).append(run)
    members = sorted(groups.values(), key=lambda g: -float(g[0].settings["weight_decay"]))
    labels = _labels([group[0] for group in members])
    return [
        RunGroup(label, tuple(sorted(group, key=lambda r: int(r.settings["seed"]))))
        for label, group in zip(labels, members, strict=True)
    ]


def branched(run: Run) -> bool:
    """Whether the run started from the checkpoint of another one."""
    return run.settings.get("start_from") is not None


def arms(runs: Sequence[Run], directories: Sequence[Path]) -> list[RunGroup]:
    """The runs of each directory as a group with its name, if one branched from a checkpoint.

    The arms of an experiment branch from common checkpoints (``--from``), and each has a directory
    of its own. The first directory is the control.

    Returns:
        The groups in the order of the directories; empty if no run branched, if there is one
        directory, or if two runs of a directory have the same seed.
    """
    if len(directories) < 2 or not any(map(branched, runs)):
        return []
    found = []
    for directory in directories:
        own = [run for run in runs if directory in (run.path, run.path.parent)]
        if len({run.settings["seed"] for run in own}) < len(own):
            return []
        name = directory.name or str(directory)
        found.append(RunGroup(name, tuple(sorted(own, key=lambda r: int(r.settings["seed"])))))
    return found


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


def band(family: RunGroup, key: str) -> Band | None:
    """The band of ``key``; None if there is no step at which all runs logged it."""
    found = [
        dict(zip(*(v.tolist() for v in series(r.records, key)), strict=True)) for r in family.runs
    ]
    common = sorted(set.intersection(*(set(one) for one in found)))
    if not common:
        return None
    values = np.array([[one[step] for step in common] for one in found])
    return Band(np.array(common), values.mean(0), values.min(0), values.max(0))
