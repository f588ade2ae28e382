"""A run read back from its directory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncfast.experiments import run_dir
from ncfast.experiments.sweep_file import SWEEP, load_sweep
from ncfast.tracking.sinks import read_records
from ncfast.tracking.timescales import Events, find_events

PROBES_FILE = "probes.jsonl"


@dataclass(frozen=True)
class Run:
    """Settings, records and events of one run.

    Attributes:
        path: its directory.
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
        """What was trained on what, for headings."""
        s = self.settings
        return f"{s['model'].upper()} on {s['dataset']}, weight decay {s['weight_decay']:g}"

    @property
    def last_step(self) -> int:
        """Step of the last record."""
        return int(self.records[-1]["step"])

    def last(self, key: str) -> float | None:
        """The last recorded value of ``key``."""
        return next((record[key] for record in reversed(self.records) if key in record), None)


def expand_directories(directories: Sequence[Path]) -> list[Path]:
    """The directories of runs; a sweep's stands for those of its replicas that have begun.

    Raises:
        RunDirectoryError: a sweep of which no replica has begun.
    """
    found: list[Path] = []
    for directory in directories:
        if not (directory / SWEEP).exists():
            found.append(directory)
            continue
        names = load_sweep(directory)["replicas"]
        begun = [directory / n for n in names if (directory / n / run_dir.METRICS_FILE).exists()]
        if not begun:
            raise run_dir.RunDirectoryError(
                f"{directory} is a sweep of which no replica has a record yet. Let it reach its "
                "first log point."
            )
        found += begun
    return found


def read_run(path: Path) -> Run:
    """Read the run in ``path``.

    Raises:
        RunDirectoryError: there is no run, or it has logged nothing yet.
        ValueError: its log is damaged before the last line.
    """
    config = run_dir.load_config(path)
    log = path / run_dir.METRICS_FILE
    records = list(read_records(log)) if log.exists() else []
    if not records:
        raise run_dir.RunDirectoryError(
            f"{path} has no record in {run_dir.METRICS_FILE} yet. Let the run reach its first "
            "log point."
        )
    for record in records:
        for split in ("train", "test"):
            if f"{split}/accuracy" in record:
                record[f"{split}/error"] = 1 - record[f"{split}/accuracy"]
    return Run(path, config, records, find_events(records))


def read_probes(run: Run) -> list[Mapping[str, Any]]:
    """The probes of a run, in order of steps; empty when it has none."""
    path = run.path / PROBES_FILE
    if not path.exists():
        return []
    return [json.loads(json.dumps(record)) for record in read_records(path)]
