"""Logs records to runs of Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ncfast._optional import need
from ncfast.tracking.sinks.protocol import Header, Record


class WandbSink:
    """Logs records to a separate run of Weights & Biases, plotted over the ``step`` of the record.

    A run has one counter of rows, and W&B drops each row whose ``step=`` is below it. The tracker
    logs records in blocks, later than their steps, so W&B would drop rows of your run. The records
    therefore go to a separate run; ``wandb.run`` is still your run. With ``run``, the separate run
    has the project, entity, group and mode of ``run``, and is named after it. Every key is plotted
    over the logged value ``step``. The header becomes the entry ``ncfast`` of the config.

    Args:
        run: an open run of yours, which stays open, or None.
        share: log to ``run`` itself. Every record is then a row of your run and advances its
            counter. Choose this only if you never pass ``step=`` to ``run.log``.
        **settings: arguments of ``wandb.init`` if there is no ``run``, such as
            ``project="collapse"`` and ``mode="offline"``.

    Raises:
        ModuleNotFoundError: wandb is not installed.
        ValueError: both a run and settings were passed, or ``share`` without a run.
    """

    def __init__(self, run: Any = None, *, share: bool = False, **settings: Any) -> None:
        refuse_settings(run, settings, "wandb.init")
        if share and run is None:
            raise ValueError("Expected argument `run` where share=True but got None.")
        self._owned = not share
        self._run: Any = run if share else _new_run(settings if run is None else _beside(run))
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
        """Finish the run if it was made here."""
        if self._owned:
            self._run.finish()


def _new_run(settings: Mapping[str, Any]) -> Any:
    # "create_new" does not return an open run, and leaves wandb.run as it is
    wandb = need("wandb", "A Weights & Biases sink")
    return wandb.init(**{**settings, "reinit": "create_new"})


def _beside(run: Any) -> dict[str, Any]:
    """The settings of a separate run that belongs to ``run``."""
    return {
        "project": run.project or None,
        "entity": run.entity or None,
        "group": run.group or None,
        "name": f"{run.name or run.id}-ncfast",
        "job_type": "ncfast",
        "mode": run.settings.mode,
        "dir": run.settings.root_dir,
        "config": {"run": run.id},
        "settings": {"console": "off"},  # ``run`` logs the printed output
    }


def refuse_settings(run: Any, settings: Mapping[str, Any], init: str) -> None:
    """Raise ValueError if both a run and settings for a new run were passed.

    Raises:
        ValueError: both were passed.
    """
    if run is not None and settings:
        raise ValueError(
            "Expected either argument `run` or settings of a new one but got both "
            f"({', '.join(settings)}). Pass the settings to {init}."
        )
