"""Logs records to runs of trackio."""

from __future__ import annotations

import contextvars
from typing import Any

from ncfast._optional import need
from ncfast.tracking.sinks.protocol import Header, Record, numbers_of
from ncfast.tracking.sinks.wandb import refuse_settings

# these settings open no dashboard, and add no rows to those of the tracker
_QUIET = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}


class TrackioSink:
    """Logs records to a run of trackio, at the step of the record.

    A new run is made beside your current run, to which ``trackio.log`` still writes. The header
    becomes the entry ``ncfast`` in the config of a new run.

    Args:
        run: an open run of yours, which stays open; None makes one and finishes it at the end.
        **settings: arguments of ``trackio.init`` for that run, such as ``project="collapse"``.

    Raises:
        ModuleNotFoundError: trackio is not installed.
        ValueError: both a run and settings were passed.
    """

    def __init__(self, run: Any = None, **settings: Any) -> None:
        refuse_settings(run, settings, "trackio.init")
        self._owned = run is None
        self._run: Any = _new_run({**_QUIET, **settings}) if self._owned else run

    def start(self, header: Header) -> None:
        """Put the header into the config of a new run."""
        if self._owned:
            self._run.config["ncfast"] = dict(header)

    def write(self, record: Record) -> None:
        """Log a record; trackio stores it in the background."""
        self._run.log(numbers_of(record), step=int(record["step"]))

    def close(self) -> None:
        """Finish the run if it was made here."""
        if self._owned:
            self._run.finish()


def _new_run(settings: dict[str, Any]) -> Any:
    trackio = need("trackio", "A trackio sink")
    config = trackio.config
    try:
        # in an empty context init() sees no current run, which it would finish
        return contextvars.Context().run(trackio.init, **settings)
    finally:
        trackio.config = config
