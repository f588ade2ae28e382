"""Creates and checks a sweep's directory and its sweep.json."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ncfast.experiments.config import changeable
from ncfast.experiments.run_dir import make_directory, versions, write_atomically
from ncfast.experiments.stored import (
    RunDirectoryError,
    bad_entry,
    read_object,
    read_settings,
    shown,
)
from ncfast.experiments.sweep_config import SWEEP as SWEEP
from ncfast.experiments.sweep_config import SweepConfig

WAIT_SECONDS = 120.0


def prepare(config: SweepConfig, names: Sequence[str]) -> None:
    """Create the directory, unless the sweep is resumed, and write its sweep.json.

    Args:
        config: the settings.
        names: the names of the replicas, which are also their folders.

    Raises:
        RunDirectoryError: the directory of a new sweep holds something else.
        OSError: the directory cannot be written.
    """
    path = config.out / SWEEP
    if not config.resume and config.out.exists() and any(config.out.iterdir()):
        raise RunDirectoryError(
            f"{config.out} is not empty. Choose another --out, add --resume to continue the sweep "
            "in it, or delete the directory."
        )
    make_directory(config.out)
    content = {
        "settings": _settings(config),
        "replicas": list(names),
        "versions": versions(),
    }
    write_atomically(path, json.dumps(content, indent=2).encode() + b"\n")


def wait_for(config: SweepConfig, names: Sequence[str]) -> None:
    """Wait until rank 0 has created the directory. Only rank 0 checks whether it is in use.

    Args:
        config: the settings.
        names: the names of the replicas.

    Raises:
        RunDirectoryError: there is no sweep.json after `WAIT_SECONDS`, or one of another sweep.
    """
    path = config.out / SWEEP
    deadline = time.monotonic() + WAIT_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise RunDirectoryError(
                f"{path} was not made by rank 0 within {WAIT_SECONDS:g} s. Look at its "
                "error; all ranks must see the same --out."
            )
        time.sleep(0.05)
    stored = load_sweep(config.out)
    if _changed(config, stored) or stored["replicas"] != list(names):
        raise RunDirectoryError(f"{path} belongs to another sweep. Choose another --out.")


def _settings(config: SweepConfig) -> dict[str, Any]:
    values = asdict(config)
    del values["resume"]
    return json.loads(json.dumps(values, default=str))


def load_sweep(out: Path) -> dict[str, Any]:
    """The content of a sweep's sweep.json, with all its settings.

    Raises:
        RunDirectoryError: the file is missing or damaged, or an entry has the wrong type or value.
    """
    path = out / SWEEP
    try:
        content = read_object(path, "the settings of a sweep")
    except FileNotFoundError as error:
        raise RunDirectoryError(
            f"{out} holds no sweep: {SWEEP} is missing. Pass a directory made by `ncfast sweep`."
        ) from error
    settings = read_settings(SweepConfig, path, content)
    names = content.get("replicas")
    if not isinstance(names, list) or not names or not all(map(_is_name, names)):
        raise bad_entry(path, "'replicas'", "a list of names of folders beside the file", names)
    return {**content, "settings": {**content["settings"], **_settings(settings)}}


def runs_of(directory: Path) -> list[Path]:
    """The replicas of a sweep, started or not; any other directory stands for itself.

    Raises:
        RunDirectoryError: see `load_sweep`.
    """
    if not os.path.lexists(directory / SWEEP):
        return [directory]
    return [directory / name for name in load_sweep(directory)["replicas"]]


def load_settings(out: Path) -> SweepConfig:
    """The settings of the sweep in ``out``.

    Raises:
        RunDirectoryError: see `load_sweep`.
    """
    return SweepConfig.from_settings(load_sweep(out)["settings"], out)


def _is_name(value: object) -> bool:
    if not isinstance(value, str) or not 0 < len(value.encode()) < 256:
        return False
    return value not in (".", "..") and not {*"/\\\0"} & {*value}


def check_same_sweep(config: SweepConfig, names: Sequence[str]) -> None:
    """Check that --resume continues the same sweep.

    Args:
        config: the settings.
        names: the names of the replicas.

    Raises:
        RunDirectoryError: there is no sweep, or its settings or replicas differ.
    """
    stored = load_sweep(config.out)
    if changed := _changed(config, stored):
        raise RunDirectoryError(
            f"--resume continues the sweep in {config.out}, but {'; '.join(changed)}. "
            "Pass the settings of that sweep, or choose another --out."
        )
    if stored["replicas"] != list(names):
        path = config.out / SWEEP
        raise bad_entry(
            path, "'replicas'", f"{list(names)}, as the settings say", stored["replicas"]
        )


def _changed(config: SweepConfig, stored: Mapping[str, Any]) -> list[str]:
    """The settings that differ from those of a stored sweep and may not."""
    before, now = stored["settings"], _settings(config)
    return [
        f"{name} was {shown(before.get(name))} and is {shown(now[name])}"
        for name in now
        if name not in changeable(SweepConfig) and before.get(name) != now[name]
    ]
