"""Creates and checks a run's directory: its config.json, and its log when the run is resumed."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ncfast
from ncfast._files import locked_folder, replacing
from ncfast._strict_json import json_line
from ncfast.experiments.config import TrainConfig, changeable
from ncfast.experiments.stored import RunDirectoryError as RunDirectoryError
from ncfast.experiments.stored import check_texts, read_log, read_object, read_settings, shown
from ncfast.experiments.sweep_config import SWEEP
from ncfast.metrics.catalogue import METRICS
from ncfast.tracking import keys as tracking_keys
from ncfast.tracking.averaging import parse_averaging

CONFIG, CHECKPOINT = "config.json", "checkpoint.safetensors"
METRICS_FILE, PROBES_FILE = "metrics.jsonl", "probes.jsonl"
# the metrics of each split at every log point, besides accuracy and loss; all follow from the
# class moments and the classifier
LOGGED = (*METRICS, "bound.generalization_trace")
CONVENTIONS = {
    **{
        name: text
        for name, text in tracking_keys.CONVENTIONS.items()
        if name not in (tracking_keys.COST, tracking_keys.RUN)
    },
    "loss": "mean over the split of the loss of a sample, summed over classes",
    "features": "input of the classifier, model in eval mode, whole split",
    "rnc1.max": "Tr(Sigma_W) / (largest feature norm)^2",
    "rnc1.mean": "Tr(Sigma_W) / (mean feature norm)^2",
    "weight.norm": "global L2 norm of all parameters",
    "penalty.log_value": "log of the penalised metric of the last batch, model in train mode",
    "penalty.strength": "factor on the gradient of that logarithm in the last step",
    "penalty.gradient_norm": "norm of the penalty's gradient in the last step, hidden layers",
    "loss.gradient_norm": "norm of the loss's gradient in the last step, hidden layers",
    "within_trace": "Tr(Sigma_W), the mean squared distance of a sample from its class mean",
    "norm_ratio": "largest feature norm / mean feature norm",
    "common_offset": "norm of the mean of all features / mean feature norm",
    "dead_units": "share of the features that are 0 for every sample of the split",
    "nearest_mean_accuracy": "accuracy of the nearest class mean of the training split",
    "ridge_accuracy": "accuracy of a ridge regression from training features to one-hot labels, "
    "ridge by leave-one-out; on the training split that of the samples that were left out",
}


def make_directory(out: Path) -> None:
    """Make the directory unless it is there.

    Raises:
        RunDirectoryError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        text = error.strerror if isinstance(error, OSError) else error
        raise RunDirectoryError(
            f"Expected `out` to be a directory that can be made but got {shown(out)} ({text}). "
            "Choose another --out."
        ) from error


@contextlib.contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Make the directory of a run, and keep other processes from training in it inside the block.

    Raises:
        RunDirectoryError: the directory cannot be made, or another process trains in it.
    """
    make_directory(out)
    with locked_folder(out) as free:
        if not free:
            raise RunDirectoryError(
                f"Another process is training the run in {out}. Wait until it has ended, or choose "
                "another --out."
            )
        yield


def prepare(config: TrainConfig) -> None:
    """Create the directory of a new run and its config.json.

    Raises:
        RunDirectoryError: the directory holds a run or a sweep, or cannot be made.
        OSError: the directory cannot be written.
    """
    if os.path.lexists(config.out / SWEEP):
        raise RunDirectoryError(f"{config.out} holds a sweep. Choose another --out.")
    if any(os.path.lexists(config.out / name) for name in (CONFIG, METRICS_FILE, CHECKPOINT)):
        raise RunDirectoryError(
            f"{config.out} already holds a run. Choose another --out, add --resume to continue "
            "that run, or delete the directory."
        )
    make_directory(config.out)
    write_config(config)


def write_config(config: TrainConfig) -> None:
    """Write config.json.

    Raises:
        OSError: the disk is full or the directory cannot be written.
    """
    content = json.dumps(_describe(config), indent=2).encode() + b"\n"
    write_atomically(config.out / CONFIG, content)


def fixed_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that a resumed run may not change, as JSON has them."""
    may_change = changeable(TrainConfig)
    return {name: value for name, value in _settings(config).items() if name not in may_change}


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


def check_same_run(config: TrainConfig) -> None:
    """Check that --resume continues the same run.

    Raises:
        RunDirectoryError: there is no run to resume, or the settings differ.
    """
    if not all(os.path.lexists(config.out / name) for name in (CONFIG, CHECKPOINT)):
        raise RunDirectoryError(
            f"{config.out} holds no checkpoint to resume from. Choose another --out, or delete "
            "the directory, and start without --resume."
        )
    before, now = fixed_settings(load_settings(config.out)), fixed_settings(config)
    changed = [
        f"{name} was {shown(before[name])} and is {shown(now[name])}"
        for name in now
        if before[name] != now[name]
    ]
    if changed:
        raise RunDirectoryError(
            f"--resume continues the run in {config.out}, but {'; '.join(changed)}. "
            "Pass the settings of that run, or choose another --out."
        )


def load_config(out: Path) -> dict[str, Any]:
    """The content of a run's config.json, with all its settings.

    Raises:
        RunDirectoryError: the file is missing or damaged, or an entry has the wrong type or value.
    """
    path = out / CONFIG
    try:
        content = read_object(path, "the settings of a run")
    except FileNotFoundError as error:
        raise RunDirectoryError(
            f"{out} holds no run: {CONFIG} is missing. Pass a directory made by `ncfast train`."
        ) from error
    settings = read_settings(TrainConfig, path, content)
    for name in ("versions", "conventions"):
        check_texts(path, name, content.setdefault(name, {}))
    return {**content, "settings": {**content["settings"], **_settings(settings)}}


def load_settings(out: Path) -> TrainConfig:
    """The settings of the run in ``out``.

    Raises:
        RunDirectoryError: see `load_config`.
    """
    return TrainConfig.from_settings(load_config(out)["settings"], out)


def truncate_log(path: Path, last_step: int) -> int:
    """Remove the records after ``last_step``, which the resumed run writes again.

    Returns:
        The number of records that are left.

    Raises:
        RunDirectoryError: the log is damaged; it is unchanged then.
        OSError: the disk is full or the directory cannot be written.
    """
    if not os.path.lexists(path):
        return 0
    kept = [record for record in read_log(path) if record["step"] <= last_step]
    write_atomically(path, "".join(map(json_line, kept)).encode())
    return len(kept)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` with ``content``; if writing fails, the old file stays.

    Raises:
        OSError: the disk is full or the directory cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)
