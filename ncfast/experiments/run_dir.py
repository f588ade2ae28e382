"""Creates and checks a run's directory: its config.json, and its log when the run is resumed."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ncfast
from ncfast._files import replacing
from ncfast._strict_json import json_line
from ncfast.experiments.config import TrainConfig, changeable
from ncfast.metrics.catalogue import METRICS
from ncfast.tracking import keys as tracking_keys
from ncfast.tracking.averaging import parse_averaging
from ncfast.tracking.sinks import read_records

CONFIG, METRICS_FILE, CHECKPOINT = "config.json", "metrics.jsonl", "checkpoint.safetensors"
# the metrics of each split at every log point, besides accuracy and loss; all follow from the
# class moments and the classifier
LOGGED = (*METRICS, "bound.generalization_trace")
CONVENTIONS = {
    **{name: text for name, text in tracking_keys.CONVENTIONS.items() if name != "tracker/seconds"},
    "loss": "mean over the split of the loss of a sample, summed over classes",
    "features": "input of the classifier, model in eval mode, whole split",
    "rnc1.max": "Tr(Sigma_W) / (largest feature norm)^2",
    "rnc1.mean": "Tr(Sigma_W) / (mean feature norm)^2",
    "weight.norm": "global L2 norm of all parameters",
}


class RunDirectoryError(RuntimeError):
    """The output directory cannot be used for this run; the message names the remedy."""


def prepare(config: TrainConfig) -> None:
    """Create the directory and its config.json, or check that --resume continues the same run.

    Raises:
        RunDirectoryError: the directory holds another run, there is no run to resume, or the
            settings differ.
        OSError: the directory cannot be written.
    """
    path = config.out / CONFIG
    if config.resume:
        _check_same_run(config, path)
    elif path.exists() or (config.out / METRICS_FILE).exists():
        raise RunDirectoryError(
            f"{config.out} already holds a run. Choose another --out, add --resume to continue "
            "that run, or delete the directory."
        )
    config.out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(_describe(config), indent=2).encode() + b"\n")


def _settings(config: TrainConfig) -> dict[str, Any]:
    values = asdict(config)
    del values["resume"]  # an action, not a setting
    return json.loads(json.dumps(values, default=str))


def _describe(config: TrainConfig) -> dict[str, Any]:
    return {
        "settings": _settings(config),
        "versions": versions(),
        "seed": config.seed,
        "metrics": [*LOGGED, "weight.norm"],
        "conventions": CONVENTIONS,
    }


def versions() -> dict[str, str]:
    """Versions of the packages that affect a run's numbers."""
    return {
        "ncfast": ncfast.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def header(num_classes: int) -> dict[str, Any]:
    """The header of a run's log: versions, conventions, and the definition of each metric."""
    return tracking_keys.build_header(
        metrics=[*LOGGED, "weight.norm"],
        averaging=parse_averaging("batch"),
        num_classes=num_classes,
        layers=(),
    )


def _check_same_run(config: TrainConfig, path: Path) -> None:
    if not path.exists() or not (config.out / CHECKPOINT).exists():
        raise RunDirectoryError(
            f"{config.out} holds no checkpoint to resume from. Choose another --out, or delete "
            "the directory, and start without --resume."
        )
    stored = load_config(config.out)["settings"]
    before = _settings(TrainConfig.from_settings(stored, config.out))
    now = _settings(config)
    changed = [
        f"{name} was {before.get(name)} and is {now[name]}"
        for name in now
        if name not in changeable(TrainConfig) and before.get(name) != now[name]
    ]
    if changed:
        raise RunDirectoryError(
            f"--resume continues the run in {config.out}, but {'; '.join(changed)}. "
            "Pass the settings of that run, or choose another --out."
        )


def load_config(out: Path) -> dict[str, Any]:
    """The content of a run's config.json.

    Raises:
        RunDirectoryError: the file is missing or damaged.
    """
    try:
        return json.loads((out / CONFIG).read_text())
    except FileNotFoundError as error:
        raise RunDirectoryError(
            f"{out} holds no run: {CONFIG} is missing. Pass a directory made by `ncfast train`."
        ) from error
    except ValueError as error:
        raise RunDirectoryError(f"{out / CONFIG} is damaged: {error}.") from error


def truncate_log(out: Path, last_step: int) -> None:
    """Remove the records after ``last_step``; the resumed run writes them again."""
    path = out / METRICS_FILE
    if path.exists():
        kept = [record for record in read_records(path) if record["step"] <= last_step]
        write_atomically(path, "".join(map(json_line, kept)).encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` with ``content``; if writing fails, the old file stays.

    Raises:
        OSError: the disk is full or the directory cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)
