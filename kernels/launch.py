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
    most_registers,
)
from ncfast.kernels.merge import merge_segments
from ncfast.kernels.segments import moments_of_segments
from ncfast.kernels.tiny import moments_of_classes, scratch_size

NORMS_SIZE = 2048
# explicit, because the default changes in Triton 3.10
OPTIONS = {"enable_fp_fusion": True}
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
_NOTHING = contextlib.nullcontext()


class Grouped(NamedTuple):
    """The tensors of a `LabelPlan` that the kernels read: rows grouped by class."""

    permutation: Tensor  # (N,) int32
    segments: Tensor  # (4, W) int32, see `SegmentTable`
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

    partial_mean: Tensor  # (slots, D) float64
    totals: Tensor  # (3, W) float64: sum of squares, sum and maximum of the norms
    arrivals: Tensor  # (W,) int32
    row_squares: Tensor  # (N,) float64 where rows are wider than a tile, else empty


def grouped_moments(
    feats: Tensor, rows: Grouped, config: SegmentsConfig, merge: MergeConfig
) -> Outputs:
    """Class moments of ``feats`` (N, D), grouped as in ``rows``, in three launches."""
    dim, classes, number = feats.shape[1], rows.counts.shape[0], rows.segments.shape[1]
    align, shared, blocks = alignment(dim), rows.shared.shape[1], -(-dim // merge.tile_cols)
    scratch, spreads = allocate(feats, rows, config, shared * blocks)
    flat, within, norms = packed(feats.device, classes * dim, classes, 2)
    means = flat.view(classes, dim)
    with on(feats.device):
        launch_segments(feats, rows, config, scratch, means, within)
        merge_segments[(shared + 1, blocks)](
            rows.segments, rows.shared, rows.counts, rows.poison, *scratch[:3], spreads, means,
            within, norms, dim // align, number, shared, ALIGN=align,
            SEGMENTS=merge.tile_segments, COLS=merge.tile_cols, SIZE=NORMS_SIZE,
            num_warps=merge.warps, **OPTIONS, **bounded(8),
        )  # fmt: skip
    return Outputs(means, within, *norms.unbind())


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
    wide = dim > config.tile_cols
    for again in (False, True):
        options = OPTIONS | bounded(config.warps) if wide and not again else OPTIONS
        moments_of_segments[(number,)](
            feats, rows.permutation, rows.segments, rows.poison, scratch.partial_mean,
            scratch.totals, means, within, scratch.arrivals, scratch.row_squares, dim // align,
            feats.stride(0) // align, feats.stride(1), number, ALIGN=align, ROWS=config.tile_rows,
            COLS=config.tile_cols, WIDE=wide, ACC=accumulator(feats.dtype),
            AGAIN=again, num_warps=config.warps, **options,
        )  # fmt: skip


def tiny_moments(
    feats: Tensor, labels: Tensor, num_classes: int, config: TinyConfig
) -> tuple[Tensor, Outputs]:
    """Counts and moments of a small ``feats`` (N, D) by ``labels`` (N,), in one launch.

    The results lie in one allocation, the scratch in another, which is set to 0: two launches.
    """
    (count, dim), (stride, step), device = feats.shape, feats.stride(), feats.device
    if labels.dtype in _UNSIGNED:
        labels = labels.to(torch.int64)
    labels = labels.contiguous()
    results = torch.empty(num_classes * (dim + 2) + 2, dtype=torch.float64, device=device)
    size = scratch_size(count, num_classes)
    scratch = torch.zeros(size, dtype=torch.int32, device=device)
    align = alignment(dim, stride)
    with on(device):
        launch(
            moments_of_classes, (num_classes, 1, 1),
            (feats, labels, results, scratch, count, dim // align, stride // align, step),
            (align, config.labels, config.tile_rows, config.tile_cols, config.classes,
             accumulator(feats.dtype)),
            config.warps,
            # threads that hold the same norm would fuse different squares of it into its sum
            fusion=False,
        )  # fmt: skip
    counts, means, within, norms = results.split_with_sizes(
        (num_classes, num_classes * dim, num_classes, 2)
    )
    means, norm_sum, norm_max = means.view(num_classes, dim), *norms.unbind()
    return counts.view(torch.int64), Outputs(means, within, norm_sum, norm_max)


def accumulator(dtype: torch.dtype) -> Any:
    """The type in which rows are summed."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def allocate(
    feats: Tensor, rows: Grouped, config: SegmentsConfig, blocks: int = 0
) -> tuple[Scratch, Tensor]:
    """Memory for the first launch, and a float64 for each of ``blocks`` programs of the merge."""
    (count, dim), number = feats.shape, rows.segments.shape[1]
    squares = count if dim > config.tile_cols else 0
    totals, arrivals, row_squares, spreads = packed(
        feats.device, 3 * number, -(-number // 2), squares, blocks
    )
    partial = torch.empty((rows.slots, dim), dtype=torch.float64, device=feats.device)
    return Scratch(partial, totals, arrivals.view(torch.int32), row_squares), spreads


def packed(device: torch.device, *sizes: int) -> list[Tensor]:
    """Vectors of float64 of these sizes, side by side in one allocation."""
    return list(torch.empty(sum(sizes), dtype=torch.float64, device=device).split(sizes))


_compiled: dict[Any, Any] = {}  # what `launch` has launched before


def launch(
    kernel: Any,
    grid: tuple[int, int, int],
    arguments: tuple[Any, ...],
    constants: tuple[Any, ...],
    warps: int,
    *,
    fusion: bool = True,
) -> None:
    """Launch a kernel as ``kernel[grid](...)`` does, with less work on the host.

    Triton finds out which compiled form of a kernel suits its arguments, and takes most of the time
    of a launch for it. Here a key tells what the form depends on, and keeps the form.

    Args:
        kernel: takes ``arguments``, then ``constants``, in this order.
        grid: number of programs along three axes.
        arguments: tensors and integers. Tensors have addresses.
        constants: the values of its constexpr parameters.
        warps: of a program; its registers are `bounded`.
        fusion: whether products and sums may be fused.
    """
    options = {"num_warps": warps, "enable_fp_fusion": fusion} | bounded(warps)
    if interpreted():
        kernel[grid](*arguments, *constants, **options)
        return
    # like Triton: the dtype of a tensor and whether 16 divides its address; of an integer,
    # whether it is 1, whether 16 divides it, whether 32 bits hold it
    device = triton.runtime.driver.active.get_current_device()
    key = [kernel, device, constants, warps, fusion]
    for value in arguments:
        if isinstance(value, Tensor):
            key += value.dtype, value.data_ptr() % 16 == 0
        else:
            key.append(value == 1 or (value % 16 == 0, value < 1 << 31))
    found = _compiled.get(key := tuple(key))
    if found is None:
        compiled = kernel[grid](*arguments, *constants, **options)
        # before Triton 3.3, a compiled kernel takes no constants
        takes_constants = "constexpr" in compiled.src.signature.values()
        _compiled[key] = compiled, constants if takes_constants else ()
        return
    compiled, constants = found
    compiled[grid](*arguments, *constants)


def bounded(warps: int) -> dict[str, int]:
    """The option for as many registers as let 20 warps share a multiprocessor.

    Without it, ptxas may spill registers to make room for more. Triton for ROCm has no such option.
    """
    return {} if torch.version.hip else {"maxnreg": most_registers(warps)}


def on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A context in which ``device`` is current: Triton launches on the current device."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return _NOTHING
    return torch.cuda.device(device)


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
