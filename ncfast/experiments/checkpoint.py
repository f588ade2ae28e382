"""The whole state of a training run in one safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ncfast.experiments.order import BatchOrder
from ncfast.experiments.run_dir import RunDirectoryError
from ncfast.tracking.sinks.files import replacing


def save(
    path: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, order: BatchOrder
) -> None:
    """Write a checkpoint; the file at ``path`` is replaced only when the new one is complete.

    Raises:
        OSError: the disk is full or the directory cannot be written; the old checkpoint is kept.
    """
    tensors: dict[str, Tensor] = {}
    tensors |= {f"model/{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"order/{name}": value for name, value in order.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        # gradient descent without momentum keeps None
        kept = {name: value for name, value in state.items() if value is not None}
        tensors |= {f"optimizer/{index}/{name}": value for name, value in kept.items()}
    save_tensors(path, step, tensors)


def save_tensors(path: Path, step: int, tensors: dict[str, Tensor]) -> None:
    """Write a step and named tensors; the old file is replaced only by a complete new one.

    Raises:
        OSError: as in `save`.
    """
    # clone: safetensors refuses views that share memory
    content = {
        k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()
    }
    content["step"] = torch.tensor(step)
    with replacing(path) as temporary:
        try:
            save_file(content, temporary)
        except Exception as error:  # safetensors reports a full disk with an error of its own
            raise OSError(f"{path}: could not write the checkpoint: {error}") from error


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, order: BatchOrder) -> int:
    """Restore what `save` wrote, and return its step.

    Raises:
        RunDirectoryError: the file is damaged or of another model.
    """
    try:
        tensors = load_file(path)
        step = int(tensors["step"])
        model.load_state_dict(_part(tensors, "model/"))
        order.load_state_dict(_part(tensors, "order/"))
        optimizer.load_state_dict(_optimizer_state(_part(tensors, "optimizer/"), optimizer))
    except Exception as error:
        raise RunDirectoryError(
            f"{path} cannot be resumed from ({type(error).__name__}: {error}). "
            "Start a new run in another directory."
        ) from error
    return step


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _optimizer_state(flat: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
