"""Optional autotuning of launch configurations, enabled by NCFAST_AUTOTUNE=1.

The first call of a shape class times the rule's configuration and its neighbors. Timing
synchronises with the device. The fastest configuration is kept in memory until the process ends.
The length of a segment sets the order of the sums, so the last bits of a result may differ between
processes.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ncfast.kernels.configuration import SegmentsConfig, power_of_two

_REPEATS = 7
_best: dict[tuple[object, ...], SegmentsConfig] = {}


def wanted(device: torch.device) -> bool:
    """Whether to autotune: the environment variable is set and no graph is being captured."""
    if os.environ.get("NCFAST_AUTOTUNE") != "1":
        return False
    return not (device.type == "cuda" and torch.cuda.is_current_stream_capturing())


def segments(
    feats: Tensor, num_classes: int, rule: SegmentsConfig, run: Callable[[SegmentsConfig], object]
) -> SegmentsConfig:
    """The fastest of ``rule`` and its neighbors for ``run`` on features of this shape class."""
    rows, dim = feats.shape
    classes = power_of_two(rows), dim, power_of_two(num_classes)
    key = (feats.device, feats.dtype, *classes, feats.stride(0) % 16, feats.stride(1))
    if key not in _best:
        from ncfast.kernels.launch import on  # imports Triton

        with on(feats.device):  # where events are recorded
            _best[key] = min(neighbors(rule), key=lambda config: _milliseconds(run, config))
    return _best[key]


def neighbors(rule: SegmentsConfig) -> list[SegmentsConfig]:
    """``rule`` and the configurations one step away; segments have at most 256 rows."""
    tile = rule.tile_rows
    wanted_lengths = (rule.segment_rows // 2, min(2 * rule.segment_rows, 256))
    lengths = (-(-n // tile) * tile for n in wanted_lengths)
    tiles = (n for n in (tile // 2, 2 * tile) if n > 1)
    warps = (n for n in (rule.warps // 2, 2 * rule.warps) if 1 <= n <= 16)
    found = [
        rule,
        *(replace(rule, segment_rows=n) for n in lengths),
        *(replace(rule, tile_rows=n) for n in tiles if rule.segment_rows % n == 0),
        *(replace(rule, warps=n) for n in warps),
    ]
    return list(dict.fromkeys(found))


def _milliseconds(run: Callable[[SegmentsConfig], object], config: SegmentsConfig) -> float:
    """Median device time of a configuration; infinite if it cannot be compiled or launched."""
    try:
        run(config)
        return milliseconds(lambda: run(config))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a compiler or launcher may raise anything; skip this configuration
        return float("inf")


def milliseconds(call: Callable[[], object]) -> float:
    """Median device time of a call, in milliseconds."""
    spans = []
    for _ in range(_REPEATS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        stop.synchronize()
        spans.append(start.elapsed_time(stop))
    return statistics.median(spans)
