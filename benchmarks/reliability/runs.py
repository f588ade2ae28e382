"""The small runs that are killed or run out of disk: a training, a sweep, a tracked loop."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ncfast.experiments.config import TrainConfig
from ncfast.experiments.run_dir import CHECKPOINT, METRICS_FILE, RunDirectoryError
from ncfast.experiments.sweep import sweep
from ncfast.experiments.sweep_config import SweepConfig
from ncfast.experiments.trainer import train
from ncfast.experiments.training.probe import PROBES_FILE
from ncfast.tracking import Tracker, read_records

STEPS = 240
_RECIPE: dict[str, Any] = {
    "dataset": "synthetic",
    "widths": (16,),
    "steps": STEPS,
    "batch_size": 20,
    "schedule": "every:4",
    "probes": "log:3",
    "information": 60,
    "checkpoint_every": 40,
    "device": "cpu",
}


def run_train(folder: Path) -> None:
    """Train in a folder, or go on with the training that is there."""
    _go_on(folder, lambda resume: train(_train(folder, resume)))


def run_sweep(folder: Path) -> None:
    """Sweep over four replicas in two groups, or go on with the sweep that is there."""
    _go_on(folder, lambda resume: sweep(_sweep(folder, resume)))


def _train(folder: Path, resume: bool) -> TrainConfig:
    return TrainConfig(out=folder, resume=resume, train_size=100, **_RECIPE)


def _sweep(folder: Path, resume: bool) -> SweepConfig:
    options = {**_RECIPE, "steps": STEPS // 2, "checkpoint_every": 20}
    decays = {"train_size": (100,), "weight_decay": (0.0, 0.1), "seeds": 2, "group_size": 2}
    return SweepConfig(out=folder, resume=resume, **decays, **options)


def _go_on(folder: Path, call: Any) -> None:
    """Resume; where there is nothing to resume do as the error says: delete, and start again."""
    if not folder.exists():
        call(False)
        return
    try:
        call(True)
    except RunDirectoryError as error:
        if "no checkpoint" not in str(error) and "holds no" not in str(error):
            raise
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
        call(False)


def outcome_of_runs(folder: Path) -> dict[str, str]:
    """Digests of every log and checkpoint below a folder, by path."""
    found = {}
    for name in (METRICS_FILE, PROBES_FILE):
        for path in sorted(folder.rglob(name)):
            lines = [json.dumps(record, sort_keys=True) for record in read_records(path)]
            found[str(path.relative_to(folder))] = _digest("\n".join(lines).encode())
    from safetensors.torch import load_file

    for path in sorted(folder.rglob(CHECKPOINT)):
        tensors = sorted(load_file(path).items())
        content = b"".join(name.encode() + t.numpy().tobytes() for name, t in tensors)
        found[str(path.relative_to(folder))] = _digest(content)
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


TRACKED_STEPS = 600
SAVE_EVERY = 50
LOG, STATE = "log.jsonl", "state.pt"


def run_tracker(folder: Path, sinks: tuple[str, ...] = (LOG, "log.csv")) -> list[str]:
    """Train a network with a tracker, save every 50 steps, and go on from the last save.

    Returns:
        The warnings that were given.
    """
    import warnings

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        paths = [folder / name for name in sinks]
        start = _restore(folder / STATE, model, optimizer)
        options = {"num_classes": 4, "log_cost": False, "start_step": start}
        with Tracker(model, sinks=paths, **options) as tracker:
            for step, (x, y) in enumerate(_batches(start), start=start + 1):
                loss = nn.functional.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                tracker.step(labels=y)
                tracker.log({"loss": loss})
                if step % SAVE_EVERY == 0:
                    tracker.flush()
                    _save(folder / STATE, step, model=model, optimizer=optimizer)
    torch.save(model.state_dict(), folder / "weights.pt")
    return [str(warning.message) for warning in caught]


def _batches(start: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches after step ``start``, the same whenever they are made."""
    centres = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    for step in range(start, TRACKED_STEPS):
        generator = torch.Generator().manual_seed(100 + step)
        y = torch.randint(4, (32,), generator=generator)
        yield centres[y] + 0.5 * torch.randn(32, 8, generator=generator), y


def _save(path: Path, step: int, **parts: Any) -> None:
    state = {name: part.state_dict() for name, part in parts.items()} | {"step": step}
    temporary = path.with_suffix(".new")
    torch.save(state, temporary)
    os.replace(temporary, path)


def _restore(path: Path, model: Any, optimizer: Any) -> int:
    """Load the last save, and return its step; 0 where there is none."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=False)
    for name, part in (("model", model), ("optimizer", optimizer)):
        part.load_state_dict(state[name])
    return int(state["step"])


def saved_steps(folder: Path) -> int:
    """The step up to which a killed tracker had flushed its records for certain."""
    path = folder / STATE
    return int(torch.load(path, weights_only=False)["step"]) if path.exists() else 0


def records_of(path: Path) -> dict[int, dict[str, Any]]:
    """The last record of each step, without the number of the run that wrote it."""
    found = {int(record["step"]): dict(record) for record in read_records(path)}
    for record in found.values():
        record.pop("tracker/run", None)
    return found


def outcome_of_tracker(folder: Path) -> dict[str, str]:
    """Digests of the records of each log, and of the weights."""
    found = {}
    for path in sorted(folder.glob("log.*")):
        if path.suffix in (".jsonl", ".csv"):
            records = sorted(records_of(path).items())
            found[path.name] = _digest(json.dumps(records, sort_keys=True).encode())
    weights = torch.load(folder / "weights.pt")
    content = b"".join(value.numpy().tobytes() for value in weights.values())
    return found | {"weights": _digest(content)}
