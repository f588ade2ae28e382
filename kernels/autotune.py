"""Launches chosen by trial: with the environment variable NCFAST_AUTOTUNE=1 only.

The first call of a shape class times the neighbours of the configuration that the rule gives, which
synchronises with the device; the best is kept in memory for the rest of the process. Results may
then differ in their last bits between processes, since the length of an item orders the sums.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ncfast.kernels.configuration import ItemsConfig, power_of_two

_REPEATS = 7
_best: dict[tuple[object, ...], ItemsConfig] = {}


def wanted(device: torch.device) -> bool:
    """Whether to try: asked for, and nothing is being captured in a graph."""
    if os.environ.get("NCFAST_AUTOTUNE") != "1":
        return False
    return not (device.type == "cuda" and torch.cuda.is_current_stream_capturing())


def items(
    feats: Tensor, num_classes: int, rule: ItemsConfig, run: Callable[[ItemsConfig], object]
) -> ItemsConfig:
    """The fastest neighbour of ``rule`` for ``run`` on features like these."""
    rows, dim = feats.shape
    classes = power_of_two(rows), dim, power_of_two(num_classes)
    key = (feats.device, feats.dtype, *classes, feats.stride(0) % 16, feats.stride(1))
    if key not in _best:
        _best[key] = min(neighbours(rule), key=lambda config: _milliseconds(run, config))
    return _best[key]


def neighbours(rule: ItemsConfig) -> list[ItemsConfig]:
    """The configuration and those one step away; items stay as short as accuracy asks."""
    tile = rule.tile_rows
    wanted_lengths = (rule.item_rows // 2, min(2 * rule.item_rows, 256))
    lengths = (-(-n // tile) * tile for n in wanted_lengths)
    tiles = (n for n in (tile // 2, 2 * tile) if n > 1)
    warps = (n for n in (rule.warps // 2, 2 * rule.warps) if 1 <= n <= 16)
    found = [
        rule,
        *(replace(rule, item_rows=n) for n in lengths),
        *(replace(rule, tile_rows=n) for n in tiles if rule.item_rows % n == 0),
        *(replace(rule, warps=n) for n in warps),
    ]
    return list(dict.fromkeys(found))


def _milliseconds(run: Callable[[ItemsConfig], object], config: ItemsConfig) -> float:
    """Median device time; infinite for what does not fit the device."""
    try:
        run(config)
        return milliseconds(lambda: run(config))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a compiler or a launcher raises: the rule itself still stands
        return float("inf")


def milliseconds(call: Callable[[], object]) -> float:
    """Median device time of a call."""
    spans = []
    for _ in range(_REPEATS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        stop.synchronize()
        spans.append(start.elapsed_time(stop))
    return statistics.median(spans)
