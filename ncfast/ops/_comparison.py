"""Measures how far kernels are from the reference, against the error that is allowed.

The self-check (`ncfast.self_check`) and the comparison at the first use (`_second_net.py`) ask the
same `Comparison`. Nothing here synchronises with the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

_ENTRIES = 1 << 20  # of the first rows that are compared: at most 8 MB in float64
Results = tuple[Tensor, ...]


class Gap(NamedTuple):
    """One result of the kernels and of the reference, and the error that is allowed."""

    name: str
    found: Tensor
    expected: Tensor
    allowed: Tensor  # broadcasts against the others


@dataclass(frozen=True)
class Comparison:
    """How an operation is compared.

    Attributes:
        run: calls a form of the operation on given arguments; returns its results as tensors.
            Arguments that the form writes to are copied.
        first_rows: the arguments, positional and named, for the first rows of the same features.
        gaps: found and expected results, then the arguments; returns what is to be compared.
    """

    run: Callable[..., Results]
    first_rows: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]
    gaps: Callable[..., list[Gap]]


def worst(gap: Gap) -> Tensor:
    """The largest error as a multiple of what is allowed, () float64.

    It is infinite if an entry is finite in one result alone.
    """
    found, expected = gap.found.to(torch.float64), gap.expected.to(torch.float64)
    away, allowed = (found - expected).abs(), gap.allowed.to(torch.float64).expand_as(found)
    # an error of 0 is allowed everywhere; 0 / 0 is not asked for
    ratio = torch.where(away == 0, 0.0, away / allowed)
    finite = found.isfinite()
    ratio = torch.where(finite & expected.isfinite(), ratio, 0.0)
    ratio = torch.where(finite == expected.isfinite(), ratio, torch.inf)
    return ratio.amax() if ratio.numel() else ratio.new_zeros(())


def some_rows(feats: Tensor) -> int:
    """The number of first rows to compare."""
    return min(len(feats), max(64, min(4096, _ENTRIES // max(1, feats.shape[1]))))


def direct(form: Callable[..., Any], *given: Any) -> Results:
    """The results of a form that returns a tensor or several."""
    found = form(*given)
    return (found,) if isinstance(found, Tensor) else tuple(found)


def cut(feats: Tensor, labels: Tensor, *rest: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The first rows of features and labels; everything else as it is."""
    rows = some_rows(feats)
    return (feats[:rows], labels[:rows], *rest), {}


def cut_features(feats: Tensor, *rest: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The first rows of features; everything else as it is."""
    return (feats[: some_rows(feats)], *rest), {}


def _rounding(dtype: torch.dtype) -> float:
    """Relative error of the sums over rows, as docs/gpu-backend.md promises it, doubled."""
    return 1e-11 if dtype == torch.float64 else 2e-6


def moments_gaps(found: Results, expected: Results, feats: Tensor, *rest: Any) -> list[Gap]:
    """Of counts, means, sums of squares and norms, in this order."""
    del rest
    counts, means, within, norm_sum, norm_max = expected[:5]
    rounding = _rounding(feats.dtype)
    spread = (within / counts.clamp(min=1)).sqrt().unsqueeze(1)
    allowed = (
        torch.zeros_like(within),
        rounding * spread + 1e-14 * means.abs(),
        rounding * within,
        rounding * norm_sum,
        rounding * norm_max,
    )
    names = ("counts", "means", "within_ss", "norm_sum", "norm_max")
    return [Gap(names[i], found[i], expected[i], allowed[i]) for i in range(len(names))]


def gradient_gaps(found: Results, expected: Results, feats: Tensor, *rest: Any) -> list[Gap]:
    """Of the gradient through class moments: it is rounded to the dtype of the features."""
    del rest
    wide = expected[0].to(torch.float64).abs()
    exact = feats.dtype == torch.float64
    size = wide.amax() if wide.numel() else wide.sum()
    allowed = torch.finfo(feats.dtype).eps * wide + (1e-11 if exact else 2e-6) * size
    return [Gap("gradient", found[0], expected[0], allowed)]


def scatter_gaps(found: Results, expected: Results, *given: Any) -> list[Gap]:
    """Of a scatter matrix, by Cauchy and Schwarz."""
    del given
    size = expected[-1].diagonal().clamp(min=0).sqrt()
    allowed = 1e-5 * torch.outer(size, size) + 1e-12 * size.square().amax()
    return [Gap("scatter", found[-1], expected[-1], allowed)]


def projection_gaps(
    found: Results, expected: Results, feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor
) -> list[Gap]:
    """Of sums of squared projections: an entry errs by a share of the length of row and vector."""
    sums = expected[0]
    at = labels.to(torch.int64).clamp(0, len(means) - 1)
    rows = (feats.to(torch.float64) - means.index_select(0, at)).square().sum()
    whole = rows * vectors.to(torch.float64).square().sum(1)
    allowed = 1e-5 * sums + 2e-6 * (sums * whole).sqrt() + 1e-12 * whole
    return [Gap("sums", found[0], sums, allowed)]


def decision_gaps(
    found: Results,
    expected: Results,
    feats: Tensor,
    centres: Tensor,
    weights: Tensor,
    offsets: Tensor,
) -> list[Gap]:
    """Of the scores of the classes chosen: rows with two equal scores may differ in the class."""
    gaps = []
    for rule, (centre, rows, offset) in enumerate(zip(centres, weights, offsets, strict=True)):
        x = feats.to(torch.float64) - centre
        score, best = (_scores(x, rows, offset, each[0][rule]) for each in (found, expected))
        size = torch.linalg.vector_norm(x, dim=1) * torch.linalg.vector_norm(rows, dim=1).amax()
        shift = torch.where(offset.isfinite(), offset, 0.0).abs().amax()
        gaps.append(Gap("decisions", score, best, 1e-12 * (size + shift)))
    return gaps


def _scores(x: Tensor, rows: Tensor, offset: Tensor, chosen: Tensor) -> Tensor:
    """The score of the class chosen in each row; NaN for a number that is no class."""
    inside = chosen.clamp(0, len(rows) - 1)  # an index out of range would end the CUDA context
    scores = (x * rows.index_select(0, inside)).sum(1) + offset.index_select(0, inside)
    return torch.where(chosen == inside, scores, torch.nan)


def run_update(
    form: Callable[..., None], feats: Tensor, labels: Tensor, state: Any, **options: Any
) -> Results:
    """The state after two updates by halves of the rows, what was ignored, and the scatter matrix.

    The arguments do not change: the updates write to copies.
    """
    state = type(state)(*(part.clone() for part in _parts(state)))
    written = {name: options[name].clone() for name in _WRITTEN if options.get(name) is not None}
    middle = len(feats) // 32 * 16  # the second half begins at an address as well aligned
    for rows in (slice(0, middle), slice(middle, None)):
        mask = options.get("mask")
        mask = None if mask is None else mask[rows]
        form(feats[rows], labels[rows], state, **{**options, "mask": mask, **written})
    return *_parts(state), *written.values()


_WRITTEN = ("ignored", "scatter")  # options of an update that it adds to
_CLASSES = 64  # of the state with which an update is compared


def cut_update(
    feats: Tensor, labels: Tensor, state: Any, **options: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The first rows, labels below 64 and an empty state: copies of the state stay small."""
    rows, number = some_rows(feats), min(_CLASSES, len(state.counts))
    ignored, few = options.get("ignore_index"), labels[:rows].to(torch.int64)
    few = few.remainder(number) if ignored is None else _fold(few, number, ignored)
    sizes = ((number,), (number, feats.shape[1]), (number,), (), ())
    parts = zip(_parts(state), sizes, strict=True)
    empty = [torch.zeros(size, dtype=part.dtype, device=part.device) for part, size in parts]
    mask = options.get("mask")
    options = {**options, "mask": None if mask is None else mask[:rows]}
    return (feats[:rows], few, type(state)(*empty)), options


def _fold(labels: Tensor, number: int, ignored: int) -> Tensor:
    return torch.where(labels == ignored, labels, labels.remainder(number))


def _parts(state: Any) -> Results:
    return state.counts, state.means, state.within_ss, state.norm_sum, state.norm_max


def update_gaps(
    found: Results, expected: Results, feats: Tensor, *given: Any, **options: Any
) -> list[Gap]:
    """Of the state after an update, and of what else it wrote."""
    gaps = moments_gaps(found, expected, feats, *given)
    if options.get("ignored") is not None:
        gaps.append(Gap("ignored", found[5], expected[5], torch.zeros_like(expected[2])[:1].sum()))
    return gaps if options.get("scatter") is None else gaps + scatter_gaps(found, expected)


def everything(gaps: Sequence[Gap]) -> Tensor:
    """The largest of all `worst` errors, ()."""
    return torch.stack([worst(gap) for gap in gaps]).amax()


MOMENTS = Comparison(direct, cut, moments_gaps)
GRADIENT = Comparison(direct, cut, gradient_gaps)
UPDATE = Comparison(run_update, cut_update, update_gaps)
SCATTER = Comparison(direct, cut, scatter_gaps)
PROJECTION = Comparison(direct, cut, projection_gaps)
DECISIONS = Comparison(direct, cut_features, decision_gaps)
