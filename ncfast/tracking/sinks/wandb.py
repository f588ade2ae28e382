"""Runs of Weights & Biases."""

from __future__ import annotations

from typing import Any

from ncfast._optional import need
from ncfast.tracking.sinks.protocol import Header, Record


class WandbSink:
    """Logs records to a run of Weights & Biases, against the record's own step.

    The run's internal counter is left alone: every key is plotted over the logged value ``step``,
    so calls of ``run.log`` of your own do not get in the way. The header becomes the entry
    ``ncfast`` of the run's config.

    Args:
        run: an open run of yours, which stays open; None opens one and closes it at the end.
        **settings: arguments of ``wandb.init`` for that run, such as ``project="collapse"`` and
            ``mode="offline"``.

    Raises:
        ModuleNotFoundError: wandb is not installed.
        ValueError: both a run and settings were passed.
    """

    def __init__(self, run: Any = None, **settings: Any) -> None:
        if run is not None and settings:
            raise ValueError(
                "Expected either argument `run` or settings of a new one but got both "
                f"({', '.join(settings)}). Pass the settings to wandb.init."
            )
        self._owned = run is None
        self._run: Any = (
            need("wandb", "A Weights & Biases sink").init(**settings) if self._owned else run
        )
        self._run.define_metric("step", hidden=True)
        self._defined = {"step"}

    def start(self, header: Header) -> None:
        """Put the header into the run's config."""
        self._run.config.update({"ncfast": dict(header)}, allow_val_change=True)

    def write(self, record: Record) -> None:
        """Log a record; wandb sends it in the background."""
        for name in record:
            if name not in self._defined:
                self._run.define_metric(name, step_metric="step")
                self._defined.add(name)
        self._run.log(dict(record))

    def close(self) -> None:
        """Finish the run if it was opened here."""
        if self._owned:
            self._run.finish()
