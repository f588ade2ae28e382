"""Helpers of operations: blocks of features in float64, labels out of range, sums by class."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from ncfast.ops.runs import sums_by_class

_BLOCK_CPU, _BLOCK_GPU = 1 << 20, 1 << 24  # elements of a float64 block of rows

# elements of a block in a pass that gathers by class: it fits a CPU's cache
_FIRST_CPU, _FIRST_GPU = 1 << 18, 1 << 24
_UNKNOWN_MULTIPROCESSORS = 132  # of an H200; only without a device to ask


def first_pass_rows(feats: Tensor) -> int:
    """Rows of a block of ``feats`` (N, D) in a pass that gathers by class."""
    budget = _FIRST_CPU if feats.device.type == "cpu" else _FIRST_GPU
    return max(1, budget // feats.shape[1])


def rows_of(feats: Tensor, width: int = 0) -> Iterator[Tensor]:
    """Blocks of rows in float64, for results with ``width`` columns."""
    for x in feats.split(block_rows(feats, width)):
        yield x.to(torch.float64)


def block_rows(feats: Tensor, width: int = 0) -> int:
    """Rows of a float64 block of ``feats`` (N, D), for results with ``width`` columns."""
    budget = _BLOCK_CPU if feats.device.type == "cpu" else _BLOCK_GPU
    return max(1, budget // max(feats.shape[1], width))


def take_rows(feats: Tensor, rows: Tensor) -> Tensor:
    """A float64 copy of some rows of ``feats`` (N, D)."""
    # feats[rows]; index_select would first copy all of a matrix whose columns are strided
    taken: Tensor = torch.ops.aten.index.Tensor(feats, [rows])
    return taken.to(torch.float64)


def residuals(
    feats: Tensor, labels: Tensor, means: Tensor, width: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of x_i - mu_c, before any product, and of labels clamped to 0..K-1.

    With labels out of range the means are NaN, so that the results are too.
    """
    rows = block_rows(feats, width)
    for x, y in zip(feats.split(rows), labels.split(rows), strict=True):
        label = y.to(torch.int64).clamp(0, means.shape[0] - 1)
        yield x.to(torch.float64) - means.index_select(0, label), label


def fold_invalid(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Labels, 0 where out of range; and NaN, to add to every result, if there were any such."""
    outside = (labels < 0) | (labels >= num_classes)
    nan_if_invalid = torch.zeros((), dtype=torch.float64, device=labels.device)
    return labels.masked_fill(outside, 0), nan_if_invalid.masked_fill_(outside.any(), torch.nan)


def add_by_class(total: Tensor, labels: Tensor, values: Tensor) -> None:
    """Add rows of values to total by label, in the same order on every run."""
    if total.device.type == "cpu":
        total.index_add_(0, labels, values)
    else:  # index_add_ is atomic on CUDA
        columns = values if values.ndim > 1 else values.unsqueeze(1)
        total += sums_by_class(columns, labels, len(total)).view_as(total)


@functools.lru_cache
def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a CUDA device; on the CPU, for the interpreter, those of an H200."""
    if device.type != "cuda":
        return _UNKNOWN_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count
