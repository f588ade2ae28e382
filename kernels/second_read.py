"""Launches the kernels that read the features a second time, and prepares their arguments."""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.kernels.configuration import DecideConfig, ProjectConfig, ScatterConfig, alignment
from ncfast.kernels.decide import decide_in_float32, decide_in_float64
from ncfast.kernels.launch import OPTIONS, interpreted, on
from ncfast.kernels.project import projected_squares
from ncfast.kernels.scatter import scatter_tiles

_EPSILON = 2.0**-23


def projected_ss(
    feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor, config: ProjectConfig
) -> Tensor:
    """Sum over rows of <x - mean of its class, v>^2 for each row v of ``vectors``: (V,) float64.

    ``feats`` (N, D) may have any float type except float64; ``means`` (K, D) are float64. A label
    outside 0..K-1 makes every sum NaN.
    """
    count, (classes, number) = feats.shape[0], (means.shape[0], vectors.shape[0])
    labels, inside = _known(labels, classes)
    vectors = vectors.to(torch.float64)
    centres = means.to(torch.float32)
    # the projected remainder of rounding; means of absent classes are never read
    offsets = ((means - centres) @ vectors.T).to(torch.float32).contiguous()
    partial = torch.empty((config.programs, number), dtype=torch.float64, device=feats.device)
    with on(feats.device):
        projected_squares[(config.programs, config.blocks)](
            feats, labels, centres.contiguous(), offsets, vectors.to(torch.float32).contiguous(),
            partial, count, classes, *_layout(feats), number, ALIGN=_align(feats),
            ROWS=config.tile_rows, COLS=config.tile_cols, VECTORS=config.vectors,
            PRECISION=precision("tf32x3"), num_warps=config.warps, num_stages=config.stages,
            **OPTIONS,
        )  # fmt: skip
    return torch.where(inside, partial.sum(0), torch.nan)


def scatter(feats: Tensor, labels: Tensor, means: Tensor, config: ScatterConfig) -> Tensor:
    """Sum over rows of (x - mean)(x - mean)^T: (D, D) float64, exactly symmetric.

    Arguments as in `projected_ss`.
    """
    count, dim = feats.shape
    labels, inside = _known(labels, means.shape[0])
    side = config.side
    shape = (config.parts, config.tiles, side, side)
    partial = torch.empty(shape, dtype=torch.float64, device=feats.device)
    scale = _power_of_two(feats, means)
    with on(feats.device):
        scatter_tiles[(config.tiles, config.parts)](
            feats, labels, _in_two(means), scale, partial, count,
            means.shape[0], *_layout(feats), config.span, ALIGN=_align(feats), SIDE=side,
            ROWS=config.rows, FLUSH=config.flush, PRECISION=precision("bf16x6"),
            num_warps=config.warps, num_stages=config.stages, **OPTIONS,
        )  # fmt: skip
    return torch.where(
        inside, _unfold(partial.sum(0) / scale.to(torch.float64) ** 2, dim), torch.nan
    )


def _power_of_two(feats: Tensor, means: Tensor) -> Tensor:
    """Power of two that brings the first row and the means near 1: () float32."""
    largest = torch.maximum(feats[0].to(torch.float64).abs().amax(), means.abs().amax())
    exponent = torch.frexp(largest).exponent.clamp(-126, 126)
    return ((127 - exponent) << 23).to(torch.int32).view(torch.float32)  # exact, unlike exp2


def _unfold(tiles: Tensor, dim: int) -> Tensor:
    """The symmetric matrix from the tiles of its lower triangle, in order of rows."""
    side = tiles.shape[1]
    index = torch.arange(-(-dim // side), device=tiles.device)
    high, low = torch.maximum(index[:, None], index), torch.minimum(index[:, None], index)
    # the tiles above the diagonal are wrong; tril drops them
    square = tiles[(high * (high + 1) // 2 + low)].permute(0, 2, 1, 3)
    whole = square.reshape(len(index) * side, -1)[:dim, :dim]
    return whole.tril() + whole.tril(-1).T


def decisions(
    feats: Tensor, centres: Tensor, weights: Tensor, offsets: Tensor, config: DecideConfig
) -> Tensor:
    """argmax_c <x - centre, weight_c> + offset_c for each of R rules: (R, N) int64.

    ``centres`` (R, D), ``weights`` (R, K, D) and ``offsets`` (R, K) are float64. The smaller index
    wins a tie. A row of NaN gets index 0.
    """
    count, (rules, classes, _) = feats.shape[0], weights.shape
    made = {"device": feats.device}
    chosen = torch.empty((rules, count), dtype=torch.int64, **made)
    exact = feats.dtype == torch.float64
    undecided = torch.empty((rules, count), dtype=torch.int8, **made)
    listed = torch.empty((rules, count), dtype=torch.int32, **made)
    with on(feats.device):
        if exact:
            undecided.fill_(1)
        else:
            _decide_in_float32(feats, centres, weights, offsets, chosen, undecided, config)
        decide_in_float64[(-(-count // config.block), rules)](
            feats, centres.contiguous(), weights.contiguous(), offsets.contiguous(), undecided,
            listed, chosen, count, classes, *_layout(feats), ALIGN=_align(feats),
            BLOCK=config.block, ROWS=config.exact_rows, COLS=config.exact_cols,
            CLASSES=config.exact_classes, num_warps=4, num_stages=2, **OPTIONS,
        )  # fmt: skip
    return chosen


def _decide_in_float32(
    feats: Tensor,
    centres: Tensor,
    weights: Tensor,
    offsets: Tensor,
    chosen: Tensor,
    undecided: Tensor,
    config: DecideConfig,
) -> None:
    (count, dim), (rules, classes, _) = feats.shape, weights.shape
    largest = torch.linalg.vector_norm(weights, dim=2).amax(1)
    shift = torch.where(offsets.isinf(), 0.0, offsets).abs().amax(1)
    # in units of rounding: three pieces per addition of a short sum, one per short sum, at most 24
    # for the part of a product that the pieces omit, 8 for the inputs
    rounding = _EPSILON * (3 * config.tile_cols + dim / config.tile_cols + 32)
    decide_in_float32[(-(-count // config.tile_rows), rules)](
        feats, _in_two(centres), weights.to(torch.float32).contiguous(),
        offsets.to(torch.float32).contiguous(), torch.stack((largest, shift)).to(torch.float32),
        chosen, undecided, count, classes, *_layout(feats), rounding, 2 * _EPSILON,
        dim**0.5 * 2.0**-62, dim * 2.0**-123, ALIGN=_align(feats), ROWS=config.tile_rows,
        COLS=config.tile_cols, CLASSES=config.tile_classes, PRECISION=precision("tf32x3"),
        num_warps=config.warps, num_stages=config.stages, **OPTIONS,
    )  # fmt: skip


def precision(name: str) -> str:
    """Precision of float32 products: ``name`` on CUDA's tensor cores, "ieee" elsewhere."""
    return "ieee" if interpreted() or torch.version.hip is not None else name


def _known(labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    labels = labels.to(torch.int64).contiguous()
    return labels, ((labels >= 0) & (labels < classes)).all()


def _in_two(exact: Tensor) -> Tensor:
    """A float64 tensor as two stacked float32 ones: the nearest float32 and the remainder."""
    rounded = exact.to(torch.float32)
    return torch.stack((rounded, (exact - rounded).to(torch.float32)))


def _align(feats: Tensor) -> int:
    return alignment(feats.shape[1], feats.stride(0))


def _layout(feats: Tensor) -> tuple[int, int, int]:
    align = _align(feats)
    return feats.shape[1] // align, feats.stride(0) // align, feats.stride(1)
