"""Launches the kernels of class moments; and what the launches of all operations share."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ncfast.kernels.configuration import (
    MergeConfig,
    SegmentsConfig,
    TinyConfig,
    alignment,
)
from ncfast.kernels.merge import merge_segments
from ncfast.kernels.segments import moments_of_segments
from ncfast.kernels.tiny import moments_of_classes

NORMS_SIZE = 2048
# explicit, because the default changes in Triton 3.10
OPTIONS = {"enable_fp_fusion": True}


class Grouped(NamedTuple):
    """The tensors of a `LabelPlan` that the kernels read: rows grouped by class."""

    permutation: Tensor  # (N,) int32
    segments: Tensor  # (5, W) int32, see `SegmentTable`
    shared: Tensor  # (4, M) int32
    slots: int
    counts: Tensor  # (K,) int64
    poison: Tensor  # () float64


class Outputs(NamedTuple):
    """The results of the kernels."""

    means: Tensor  # (K, D) float64
    within_ss: Tensor  # (K,) float64
    norm_sum: Tensor  # () float64
    norm_max: Tensor  # () float64


class Scratch(NamedTuple):
    """What the first launch leaves to the merge, for W segments."""

    partial_mean: Tensor  # (slots, D) float32, or float64 for float64 features
    partial_ss: Tensor  # (W,) float64
    norm_sums: Tensor  # (W,) float64
    norm_maxs: Tensor  # (W,) float64
    row_squares: Tensor  # (N,) float64 where rows are wider than a tile, else empty


def grouped_moments(
    feats: Tensor, rows: Grouped, config: SegmentsConfig, merge: MergeConfig
) -> Outputs:
    """Class moments of ``feats`` (N, D), grouped as in ``rows``, in three launches."""
    dim, classes, number = feats.shape[1], rows.counts.shape[0], rows.segments.shape[1]
    scratch, align, shared = allocate(feats, rows, config), alignment(dim), rows.shared.shape[1]
    double = {"dtype": torch.float64, "device": feats.device}
    means, within = torch.empty((classes, dim), **double), torch.empty(classes, **double)
    norms = torch.empty(2, **double)
    with on(feats.device):
        launch_segments(feats, rows, config, scratch, means, within)
        merge_segments[(shared + 1,)](
            feats, rows.segments, rows.shared, rows.counts, rows.poison, scratch.partial_mean,
            scratch.partial_ss, scratch.norm_sums, scratch.norm_maxs, means, within, norms,
            dim // align, feats.stride(0), feats.stride(1), number, shared, ALIGN=align,
            SEGMENTS=merge.tile_segments, COLS=merge.tile_cols, SIZE=NORMS_SIZE,
            num_warps=merge.warps, **OPTIONS,
        )  # fmt: skip
    return Outputs(means, within, norms[0], norms[1])


def launch_segments(
    feats: Tensor,
    rows: Grouped,
    config: SegmentsConfig,
    scratch: Scratch,
    means: Tensor,
    within: Tensor,
) -> None:
    """The moments of every segment; the second launch is for those that the first row misled."""
    dim, number = feats.shape[1], rows.segments.shape[1]
    align = alignment(dim, feats.stride(0))
    for again in (False, True):
        moments_of_segments[(number,)](
            feats, rows.permutation, rows.segments, rows.poison, scratch.partial_mean,
            scratch.partial_ss, means, within, scratch.norm_sums, scratch.norm_maxs,
            scratch.row_squares, dim // align, feats.stride(0) // align, feats.stride(1), number,
            ALIGN=align, ROWS=config.tile_rows, COLS=config.tile_cols,
            WIDE=dim > config.tile_cols, ACC=accumulator(feats.dtype), AGAIN=again,
            num_warps=config.warps, **OPTIONS,
        )  # fmt: skip


def tiny_moments(
    feats: Tensor, labels: Tensor, num_classes: int, config: TinyConfig
) -> tuple[Tensor, Outputs]:
    """Counts and moments of a small ``feats`` (N, D) by ``labels`` (N,), in one launch."""
    (count, dim), device = feats.shape, feats.device
    if labels.dtype in (torch.uint16, torch.uint32, torch.uint64):
        labels = labels.to(torch.int64)
    double = {"dtype": torch.float64, "device": device}
    listed = torch.empty((num_classes, count), dtype=torch.int32, device=device)
    # two parts of the norms for each class, then the counter, which must begin at 0
    scratch, norms = torch.zeros(2 * num_classes + 1, **double), torch.empty(2, **double)
    counts = torch.empty(num_classes, dtype=torch.int64, device=device)
    means, within = torch.empty((num_classes, dim), **double), torch.empty(num_classes, **double)
    align = alignment(dim, feats.stride(0))
    with on(device):
        moments_of_classes[(num_classes,)](
            feats, labels.contiguous(), listed, scratch, scratch[-1:].view(torch.int32), counts,
            means, within, norms, count, dim // align, feats.stride(0) // align, feats.stride(1),
            ALIGN=align, LABELS=config.labels, ROWS=config.tile_rows, COLS=config.tile_cols,
            CLASSES=config.classes, ACC=accumulator(feats.dtype), num_warps=config.warps,
            # threads that hold the same norm would fuse different squares of it into its sum
            enable_fp_fusion=False,
        )  # fmt: skip
    return counts, Outputs(means, within, norms[0], norms[1])


def accumulator(dtype: torch.dtype) -> Any:
    """The type in which rows are summed."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def allocate(feats: Tensor, rows: Grouped, config: SegmentsConfig) -> Scratch:
    """Memory for the first launch."""
    (count, dim), number = feats.shape, rows.segments.shape[1]
    double = {"dtype": torch.float64, "device": feats.device}
    exact = torch.float64 if feats.dtype == torch.float64 else torch.float32
    return Scratch(
        torch.empty((rows.slots, dim), dtype=exact, device=feats.device),
        torch.empty(number, **double),
        torch.empty(number, **double),
        torch.empty(number, **double),
        torch.empty(count if dim > config.tile_cols else 0, **double),
    )


def on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A context in which ``device`` is current: Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    return not isinstance(moments_of_segments, triton.JITFunction)


def precision(name: str, device: torch.device) -> str:
    """Precision of float32 products: ``name``, or what this Triton and ``device`` have instead.

    Tensor cores that multiply pieces of float32 came with capability 8.0. Before it, and elsewhere
    than on CUDA, products are ordinary float32. "tf32x3", which every version of Triton has, is as
    accurate as the kernels need; "bf16x6" is more accurate.
    """
    if interpreted() or torch.version.hip is not None:
        return "ieee"
    return precision_for(name, torch.cuda.get_device_capability(device))


def precision_for(name: str, capability: tuple[int, int]) -> str:
    """`precision` for the capability of a CUDA device."""
    from triton.backends.nvidia.compiler import CUDAOptions  # Triton for ROCm has no such backend

    if capability < (8, 0):
        return "ieee"
    return name if name in CUDAOptions.allowed_dot_input_precisions else "tf32x3"


def known(labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Labels as the kernels read them, and whether all of them are in 0..K-1, ()."""
    labels = labels.to(torch.int64).contiguous()
    return labels, ((labels >= 0) & (labels < classes)).all()


def in_two(exact: Tensor) -> Tensor:
    """A float64 tensor as two stacked float32 ones: the nearest float32 and the remainder."""
    rounded = exact.to(torch.float32)
    return torch.stack((rounded, (exact - rounded).to(torch.float32)))


def align_of(feats: Tensor) -> int:
    """The largest power of two, up to 16, that divides the columns and the stride of the rows."""
    return alignment(feats.shape[1], feats.stride(0))


def layout(feats: Tensor) -> tuple[int, int, int]:
    """Columns and stride of the rows in units of the alignment, and stride of the columns."""
    align = align_of(feats)
    return feats.shape[1] // align, feats.stride(0) // align, feats.stride(1)
