"""Chooses how many replicas are trained at once, from the memory they need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch

from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import ImageSet
from ncfast.experiments.models import build_model

SHARE = 0.5  # share of the free memory for replicas; the rest is for data and temporaries
Item = TypeVar("Item")
_COPIES = 4  # parameters, gradients, and the two averages of Adam


def free_memory(device: torch.device) -> int:
    """Free memory on ``device``, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/meminfo has no line MemAvailable. Pass --group-size.")


def replica_bytes(config: TrainConfig, train: ImageSet) -> int:
    """Bytes that a replica needs during training, for its state and the activations of a batch.

    A forward pass of two samples counts the activations.
    """
    model = build_model(config, train)
    parameters = sum(p.numel() for p in model.parameters()) + sum(
        b.numel() for b in model.buffers()
    )
    outputs: list[int] = []
    handles = [
        module.register_forward_hook(lambda _m, _i, out: outputs.append(_numel(out)))
        for module in model.modules()
        if not list(module.children())
    ]
    with torch.no_grad():
        model(train.to("cpu").batch(slice(0, 2))[0])
    for handle in handles:
        handle.remove()
    batch = config.effective_batch_size(len(train))
    inputs = batch * train.input_size
    return 4 * (_COPIES * parameters + 2 * (sum(outputs) // 2) * batch + inputs)


def _numel(output: object) -> int:
    return output.numel() if isinstance(output, torch.Tensor) else 0


def group_size(
    config: TrainConfig, train: ImageSet, device: torch.device, *, free: int | None = None
) -> int:
    """Number of replicas like this one that fit into `SHARE` of the free memory, at least 1.

    Args:
        config: settings of a replica.
        train: its training split.
        device: where to train.
        free: free bytes; None asks the device.
    """
    budget = int(SHARE * (free_memory(device) if free is None else free))
    return max(1, budget // replica_bytes(config, train))


def split_evenly(items: Sequence[Item], most: int, at_least: int = 1) -> list[list[Item]]:
    """Split ``items`` into consecutive groups of nearly equal size.

    A group has at most ``most`` items. There are at least ``at_least`` groups if there are enough
    items.

    Example:
        >>> split_evenly(range(7), 3)
        [[0, 1, 2], [3, 4], [5, 6]]
        >>> split_evenly(range(3), 100, at_least=2)
        [[0, 1], [2]]
    """
    number = min(len(items), max(-(-len(items) // most), at_least))
    small, larger = divmod(len(items), number) if number else (0, 0)
    sizes = [small + 1] * larger + [small] * (number - larger)
    starts = [sum(sizes[:i]) for i in range(number)]
    return [list(items[s : s + n]) for s, n in zip(starts, sizes, strict=True)]
