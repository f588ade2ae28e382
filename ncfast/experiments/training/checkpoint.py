"""Writes and reads checkpoints: the complete state of a run in one safetensors file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from ncfast._files import replacing
from ncfast.experiments import run_dir
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.run_dir import CHECKPOINT, CONFIG
from ncfast.experiments.stored import RunDirectoryError, bad_entry, check_file

FORMAT = "3"  # format of the file; version 0.1 did not write one
_STEP, _SUM = "step", "sha256"
# further entries of the settings: the checksums of the splits, the number of records in the log
DATA, RECORDS = "data", "records"
# its length varies: the permutation of an epoch is empty before the first step
_ANY_LENGTH = "order/permutation"


def save(out: Path, step: int, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
    """Write a run's checkpoint; the old file is replaced only by a complete new one.

    Args:
        out: the run's directory.
        step: number of updates made so far.
        tensors: the state; see `ReplicaProgram.state`.
        settings: those that determine the state; see `run_dir.fixed_settings`; and `DATA`
            and `RECORDS`.

    Raises:
        OSError: the disk is full or the directory cannot be written; the old checkpoint is kept.
    """
    # copies: safetensors refuses views that share memory
    content = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    metadata = {
        "format": FORMAT,
        "settings": json.dumps(settings, sort_keys=True),
        # a diverged run may be resumed; any other value that is not finite is damage
        "nonfinite": json.dumps([name for name, v in content.items() if not _is_finite(v)]),
    }
    content[_STEP] = torch.tensor(step)
    metadata[_SUM] = checksum(content, metadata)
    path = out / CHECKPOINT
    with replacing(path) as temporary:
        try:
            # not `save_file`, which leaves a file of its own beside it when it is killed
            temporary.write_bytes(serialised(content, metadata))
        except Exception as error:
            raise OSError(f"{path}: could not write the checkpoint: {error}") from error


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over the metadata, and name, dtype, shape and bytes of each tensor."""
    kept = {name: text for name, text in metadata.items() if name != _SUM}
    found = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())


def saved_step(out: Path) -> int:
    """The step of a run's checkpoint, or -1 if there is no checkpoint.

    Raises:
        RunDirectoryError: the checkpoint is damaged, or another version wrote it.
    """
    if not os.path.lexists(out / CHECKPOINT):
        return -1
    with _resumable(out):
        check_file(out / CHECKPOINT, "a checkpoint")
        with safe_open(out / CHECKPOINT, "pt") as file:
            _check_format(file.metadata() or {})
            return _step(file.get_tensor(_STEP))


# the settings that a run shares with the checkpoint that it starts from: those of the shapes
# and of the batches that follow
_OF_STATE = (
    *("dataset", "model", "widths", "activation", "last_activation", "patch_size"),
    *("train_size", "batch_size", "optimizer", "momentum", "loss", "seed"),
)


def start_of(config: TrainConfig) -> int:
    """The step at which a run goes on or starts; -1 for initial weights.

    Raises:
        RunDirectoryError: its checkpoint, or that of ``config.start_from``, cannot be used.
    """
    own = saved_step(config.out)
    if own >= 0 or config.start_from is None:
        return own
    return branch(config)[0]


def branch(config: TrainConfig, data: object = None) -> tuple[int, dict[str, Tensor]]:
    """The step and the tensors of the checkpoint in ``config.start_from``, without a penalty's.

    Args:
        config: the settings of the run that starts.
        data: the checksums of its splits; None before they are loaded.

    Raises:
        RunDirectoryError: there is no checkpoint, it is damaged, or it is of another network, other
            data or another seed, or past the last step.
    """
    assert config.start_from is not None
    path = config.start_from
    path = path / CHECKPOINT if path.is_dir() else path
    try:
        step, saved, tensors = _read(path)
    except RunDirectoryError:
        raise
    except Exception as error:  # safetensors and torch raise what they like for a damaged file
        text = " ".join(f"{error}".split())[:300]
        raise RunDirectoryError(
            f"Expected `from` to be a run with a checkpoint but {path} cannot be used ({text})."
        ) from error
    now = run_dir.fixed_settings(config)
    for name in _OF_STATE:
        if saved.get(name) != now[name]:
            raise RunDirectoryError(
                f"Expected `{name}` to be {saved.get(name)!r}, as in {path}, but got {now[name]!r}."
            )
    if step > config.steps:
        raise RunDirectoryError(
            f"Expected `steps` to be at least {step}, the step of {path}, but got {config.steps}."
        )
    _check_data(path, saved, data)
    return step, {k: v for k, v in tensors.items() if not k.startswith("penalty/")}


def check_resumable(out: Path, settings: Mapping[str, Any], steps: int) -> None:
    """Check that a run can be resumed from its checkpoint, before anything is changed.

    Args:
        out: the run's directory.
        settings: the settings in its config.json that determine the state.
        steps: the last step of the resumed run.

    Raises:
        RunDirectoryError: the checkpoint is damaged, was made with other settings, or is past
            ``steps``.
    """
    with _resumable(out):
        step, saved, _ = _read(out / CHECKPOINT)
    for name in settings.keys() & saved.keys():
        if settings[name] != saved[name]:
            expected = f"{saved[name]!r}, with which the checkpoint was trained,"
            raise bad_entry(out / CONFIG, f"'settings.{name}'", expected, settings[name])
    if step > steps:
        raise RunDirectoryError(
            f"The run in {out} is at step {step}, past --steps {steps}. Nothing was changed. Pass "
            "more steps, or start another run in another directory."
        )


def restore(out: Path, load: Callable[[dict[str, Tensor]], object], data: object = None) -> int:
    """Pass the tensors of a run's checkpoint to ``load``, and return its step.

    Args:
        out: the run's directory.
        load: is called with the tensors.
        data: the checksums of the splits, to be compared; None compares nothing.

    Raises:
        RunDirectoryError: the file is damaged, another version wrote it, it does not fit this
            run, or it was trained on other data.
    """
    with _resumable(out):
        step, saved, tensors = _read(out / CHECKPOINT)
        _check_data(out / CHECKPOINT, saved, data)
        load(tensors)
    return step


def saved_records(out: Path) -> int | None:
    """How many records the log had when the checkpoint was written; None if it does not say.

    Raises:
        RunDirectoryError: the checkpoint is damaged.
    """
    with _resumable(out):
        number = _read(out / CHECKPOINT)[1].get(RECORDS)
    return number if isinstance(number, int) else None


def _check_data(path: Path, saved: Mapping[str, Any], data: object) -> None:
    """Raise RunDirectoryError if the checkpoint was trained on other data."""
    if data is not None and saved.get(DATA, data) != data:
        raise RunDirectoryError(
            f"{path} was trained on other data than those that are loaded now. Pass the --data-dir "
            "of that run, or train in another directory from the start."
        )


@contextlib.contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Turn each error of the block into one that names the checkpoint and the remedy."""
    try:
        yield
    except RunDirectoryError:
        raise
    except Exception as error:  # safetensors and torch raise what they like for a damaged file
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        text = " ".join(f"{kind}{error}".split())[:300]
        raise RunDirectoryError(
            f"{out / CHECKPOINT} cannot be resumed from ({text}). Delete the folder {out} to train "
            "this run again, or start it in another directory."
        ) from error


def _read(path: Path) -> tuple[int, dict[str, Any], dict[str, Tensor]]:
    """The step, the settings and the tensors of a checkpoint; ValueError if it is damaged."""
    check_file(path, "a checkpoint")
    with safe_open(path, "pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
        _check_format(metadata)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    found = checksum(tensors, metadata)
    if found != metadata.get(_SUM):
        raise ValueError(
            f"expected the SHA-256 sum {metadata.get(_SUM)} but its content has {found}: the file "
            "is damaged"
        )
    diverged = json.loads(metadata["nonfinite"])
    for name, value in tensors.items():
        if name not in diverged and not _is_finite(value):
            raise ValueError(f"expected {name} to hold finite values but it does not")
    settings = json.loads(metadata["settings"])
    if not isinstance(settings, dict):
        raise ValueError(f"expected its settings to be an object but got {settings!r:.40}")
    return _step(tensors.pop(_STEP)), settings, tensors


def _check_format(metadata: Mapping[str, str]) -> None:
    version = metadata.get("format")
    if version != FORMAT:
        told = "version 0.1" if version is None else f"another version, in format {version[:20]!r}"
        raise ValueError(f"it was written by {told}")


def _step(value: Tensor) -> int:
    if value.dtype != torch.int64 or value.ndim or value.item() < 0:
        shown = value.item() if value.numel() == 1 else f"a tensor of shape {tuple(value.shape)}"
        raise ValueError(f"expected 'step' to be an int64 of 0 or more but got {shown}")
    return int(value)


def check_fits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Check that a checkpoint has exactly the tensors that the run expects, in shape and dtype.

    Raises:
        ValueError: a tensor does not fit; the message names the first one, what was expected, and
            what was found.
    """
    for name, wanted in expected.items():
        if name not in found:
            raise ValueError(f"expected {name}, which is missing")
        have = found[name]
        shape = have.shape if name == _ANY_LENGTH else wanted.shape
        if have.dtype != wanted.dtype or have.shape != shape or have.ndim != wanted.ndim:
            raise ValueError(
                f"expected {name} to hold {tuple(wanted.shape)} {wanted.dtype} but it holds "
                f"{tuple(have.shape)} {have.dtype}"
            )
    if unknown := sorted(found.keys() - expected.keys()):
        raise ValueError(f"expected tensors of this run but got {unknown[0]}")
