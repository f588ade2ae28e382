"""Writes and reads checkpoints: the complete state of a run in one safetensors file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ncfast._files import replacing
from ncfast.experiments.run_dir import CHECKPOINT, RunDirectoryError

FORMAT = "2"  # format of the file; version 0.1 did not write one
# its length varies: the permutation of an epoch is empty before the first step
_ANY_LENGTH = "order/permutation"


def save(out: Path, step: int, tensors: dict[str, Tensor]) -> None:
    """Write a run's checkpoint; the old file is replaced only by a complete new one.

    Args:
        out: the run's directory.
        step: number of updates made so far.
        tensors: the state; see `ReplicaProgram.state`.

    Raises:
        OSError: the disk is full or the directory cannot be written; the old checkpoint is kept.
    """
    # clone: safetensors refuses views that share memory
    content = {
        k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()
    }
    content["step"] = torch.tensor(step)
    path = out / CHECKPOINT
    with replacing(path) as temporary:
        try:
            save_file(content, temporary, metadata={"format": FORMAT})
        except Exception as error:  # safetensors has its own error for a full disk
            raise OSError(f"{path}: could not write the checkpoint: {error}") from error


def saved_step(out: Path) -> int:
    """The step of a run's checkpoint, or -1 if there is no checkpoint.

    Raises:
        RunDirectoryError: the checkpoint is damaged, or version 0.1 wrote it.
    """
    if not (out / CHECKPOINT).exists():
        return -1
    return restore(out, None)


def check_not_past(out: Path, steps: int) -> None:
    """Check that the checkpoint of a run is not past ``steps``.

    Raises:
        RunDirectoryError: the checkpoint is past ``steps`` or cannot be used.
    """
    saved = saved_step(out)
    if saved > steps:
        raise RunDirectoryError(
            f"The run in {out} is at step {saved}, past --steps {steps}. Nothing was changed. Pass "
            "more steps, or start another run in another directory."
        )


def restore(out: Path, load: Callable[[dict[str, Tensor]], object] | None) -> int:
    """Pass the tensors of a run's checkpoint to ``load``, and return its step.

    Args:
        out: the run's directory.
        load: is called with the tensors; None reads only the step.

    Raises:
        RunDirectoryError: the file is damaged, version 0.1 wrote it, or it does not fit this run.
    """
    path = out / CHECKPOINT
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                raise ValueError("it was written by version 0.1")
            step = int(file.get_tensor("step"))
            if step < 0:
                raise ValueError(f"its step is {step}")
            if load is not None:
                names = set(file.keys()) - {"step"}
                load({name: file.get_tensor(name) for name in names})
    except Exception as error:
        raise RunDirectoryError(
            f"{path} cannot be resumed from ({type(error).__name__}: {error}). Delete the folder "
            f"{out} to train this run again, or start it in another directory."
        ) from error
    return step


def check_fits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Check that a checkpoint has exactly the tensors that the run expects, in shape and dtype.

    Raises:
        ValueError: a tensor does not fit; the message names the first one, what was expected, and
            what was found.
    """
    for name, wanted in expected.items():
        if name not in found:
            raise ValueError(f"{name} is missing")
        have = found[name]
        shape = have.shape if name == _ANY_LENGTH else wanted.shape
        if have.dtype != wanted.dtype or have.shape != shape or have.ndim != wanted.ndim:
            raise ValueError(
                f"{name} should hold {tuple(wanted.shape)} {wanted.dtype} "
                f"but holds {tuple(have.shape)} {have.dtype}"
            )
    if unknown := sorted(found.keys() - expected.keys()):
        raise ValueError(f"{unknown[0]} does not belong to this run")
