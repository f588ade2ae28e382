"""Logs records to runs of MLflow."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from itertools import islice
from typing import Any

from ncfast._optional import need
from ncfast.tracking.sinks.protocol import Header, Record, numbers_of

_PURPOSE = "An MLflow sink"
_BATCH = 1000  # metrics that MLflow takes in one call
_REFUSED = re.compile(r"[^\w\-. :/]")  # characters that a metric's name may not have


class MlflowSink:
    """Logs records to a run of MLflow, at the step of the record.

    The run is that of ``run_id``, if you pass one; else your active run, if it belongs to
    ``experiment`` or ``experiment`` is None; else a new run. Your run stays open, and `close` ends
    a new run. The tracking server is the one that ``MLFLOW_TRACKING_URI`` or
    ``mlflow.set_tracking_uri`` names. The header becomes the artifact ``ncfast.json``. Characters
    that MLflow refuses in the name of a metric become underscores.

    Args:
        experiment: the name of an experiment, which is made if needed.
        run_id: the id of your run.

    Raises:
        ModuleNotFoundError: mlflow (or mlflow-skinny) is not installed.
        ValueError: there is neither an experiment nor a run.
        mlflow.exceptions.MlflowException: the server refuses.
    """

    def __init__(self, experiment: str | None = None, *, run_id: str | None = None) -> None:
        mlflow = need("mlflow", _PURPOSE)
        self._metric: Any = need("mlflow.entities", _PURPOSE).Metric
        self._client: Any = mlflow.MlflowClient()
        found = run_id or self._active(mlflow.active_run(), experiment)
        self._owned = found is None
        self.run_id: str = found or self._new_run(experiment)

    def start(self, header: Header) -> None:
        """Store the header as an artifact."""
        text = json.dumps(header, indent=2, default=str)
        self._client.log_text(self.run_id, text, "ncfast.json")

    def write(self, record: Record) -> None:
        """Log a record."""
        self.write_block([record])

    def write_block(self, records: Iterable[Record]) -> None:
        """Log many records with as few calls of the server as possible."""
        now = int(time.time() * 1000)
        metrics = (
            self._metric(_REFUSED.sub("_", name), float(value), now, int(record["step"]))
            for record in records
            for name, value in numbers_of(record).items()
        )
        while batch := list(islice(metrics, _BATCH)):
            self._client.log_batch(self.run_id, metrics=batch)

    def close(self) -> None:
        """End the run if it was made here."""
        if self._owned:
            self._client.set_terminated(self.run_id)

    def _active(self, active: Any, experiment: str | None) -> str | None:
        if active is None:
            return None
        if experiment is None or self._experiment_id(experiment) == active.info.experiment_id:
            return active.info.run_id
        return None

    def _new_run(self, experiment: str | None) -> str:
        if experiment is None:
            raise ValueError(
                "Expected an experiment, or an active run, for an MLflow sink but got neither. "
                "Write 'mlflow:EXPERIMENT', or call mlflow.start_run() before."
            )
        id_ = self._experiment_id(experiment)
        created = self._client.create_run(id_ or self._client.create_experiment(experiment))
        return created.info.run_id

    def _experiment_id(self, name: str) -> str | None:
        found = self._client.get_experiment_by_name(name)
        return None if found is None else found.experiment_id
