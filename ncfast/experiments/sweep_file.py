"""Creates and checks a sweep's directory and its sweep.json."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ncfast.experiments.config import changeable
from ncfast.experiments.run_dir import RunDirectoryError, versions, write_atomically
from ncfast.experiments.sweep_config import SweepConfig

SWEEP = "sweep.json"
WAIT_SECONDS = 120.0


def prepare(config: SweepConfig, names: Sequence[str]) -> None:
    """Create the directory and its sweep.json, or check that --resume continues the same sweep.

    Args:
        config: the settings.
        names: the names of the replicas, which are also their folders.

    Raises:
        RunDirectoryError: the directory holds something else, or there is no sweep to resume.
        OSError: the directory cannot be written.
    """
    path = config.out / SWEEP
    if config.resume:
        _check_same_sweep(config)
    elif config.out.exists() and any(config.out.iterdir()):
        raise RunDirectoryError(
            f"{config.out} is not empty. Choose another --out, add --resume to continue the sweep "
            "in it, or delete the directory."
        )
    config.out.mkdir(parents=True, exist_ok=True)
    content = {
        "settings": _settings(config),
        "replicas": list(names),
        "versions": versions(),
    }
    write_atomically(path, json.dumps(content, indent=2).encode() + b"\n")


def wait_for(out: Path) -> None:
    """Wait until rank 0 has created the directory. Only rank 0 checks whether it is in use.

    Raises:
        RunDirectoryError: the directory does not exist after `WAIT_SECONDS`.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while not (out / SWEEP).exists():
        if time.monotonic() > deadline:
            raise RunDirectoryError(
                f"{out / SWEEP} was not made by rank 0 within {WAIT_SECONDS:g} s. Look at its "
                "error; all ranks must see the same --out."
            )
        time.sleep(0.05)


def _settings(config: SweepConfig) -> dict[str, Any]:
    values = asdict(config)
    del values["resume"]
    return json.loads(json.dumps(values, default=str))


def load_sweep(out: Path) -> dict[str, Any]:
    """The content of a sweep's sweep.json.

    Raises:
        RunDirectoryError: the file is missing or damaged.
    """
    try:
        return json.loads((out / SWEEP).read_text())
    except FileNotFoundError as error:
        raise RunDirectoryError(
            f"{out} holds no sweep: {SWEEP} is missing. Pass a directory made by `ncfast sweep`."
        ) from error
    except ValueError as error:
        raise RunDirectoryError(f"{out / SWEEP} is damaged: {error}.") from error


def _check_same_sweep(config: SweepConfig) -> None:
    before, now = load_sweep(config.out)["settings"], _settings(config)
    changed = [
        f"{name} was {before.get(name)} and is {now[name]}"
        for name in now
        if name not in changeable(SweepConfig) and before.get(name) != now[name]
    ]
    if changed:
        raise RunDirectoryError(
            f"--resume continues the sweep in {config.out}, but {'; '.join(changed)}. "
            "Pass the settings of that sweep, or choose another --out."
        )
