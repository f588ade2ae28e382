"""A run read back from its directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncfast.experiments import run_dir
from ncfast.tracking.sinks import read_records
from ncfast.tracking.timescales import Events, find_events


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
    return Run(path, config, records, find_events(records))
