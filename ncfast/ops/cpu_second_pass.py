"""Second passes on a CPU by the C++ extension, in float64: see ``csrc/products/second_pass.h``.

As in `ncfast.ops.cpu`, the tensors are plain ones on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from ncfast.ops import cpu
from ncfast.ops.margins import Classes, Margins
from ncfast.ops.pairs import ABOUT_DIRECTIONS, Statistic, Sweep, undefined_where

# as in csrc/products/class_pairs_types.h
_MEANS = ("cdnv", "angle", "distance", "log", "riesz")
_MAXIMA = ("cdnv", "coherence")


def scatter(feats: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """Sum over all rows of (x - mean of its class)(x - mean of its class)^T, (D, D)."""
    means = means.contiguous()
    total = means.new_empty((means.shape[1], means.shape[1]))
    _extension().scatter(
        *_matrix(feats),
        (labels := _classes(labels, len(means))).data_ptr(),
        means.data_ptr(),
        total.data_ptr(),
        torch.get_num_threads(),
    )
    return total


def own_distances(feats: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """Distance of every row from the mean of its class, (N,)."""
    means = means.contiguous()
    distances = means.new_empty(len(feats))
    _extension().own_distances(
        *_matrix(feats),
        (labels := _classes(labels, len(means))).data_ptr(),
        means.data_ptr(),
        distances.data_ptr(),
        torch.get_num_threads(),
    )
    return distances


def margins(
    classes: Classes,
    rows: Tensor,
    bias: Tensor | None,
    feats: Tensor | None = None,
    labels: Tensor | None = None,
) -> Margins:
    """See `ncfast.ops.margins.margins`; "radius" is a safe lower bound of it."""
    without = feats is None or labels is None
    if feats is None or labels is None:
        feats, labels = classes.means.narrow(0, 0, 0), classes.counts
    centre = classes.means.mean(0)
    offset = rows @ centre if bias is None else torch.addmv(bias, rows, centre)
    given = [classes.means, classes.means - centre, classes.variances, classes.counts, rows, offset]
    given = [tensor.contiguous() for tensor in (_classes(labels, len(rows)), *given)]
    projected, trace, radius = (rows.new_empty(len(rows)) for _ in range(3))
    _extension().margins(
        *_matrix(feats),
        *(tensor.data_ptr() for tensor in given),
        len(rows),
        projected.data_ptr(),
        trace.data_ptr(),
        radius.data_ptr(),
        torch.get_num_threads(),
    )
    return Margins(projected.fill_(torch.nan) if without else projected, trace, radius)


def sweep(
    centred: Tensor, norms: Tensor, variances: Tensor, present: Tensor, quantities: Sequence[str]
) -> Sweep:
    """See `ncfast.ops.pairs.sweep`; all quantities come from one loop over the tiles."""
    if centred.ndim > 2:
        return _each_state(centred, norms, variances, present, quantities)
    index = present.nonzero().squeeze(1)
    length = norms.index_select(0, index)
    unit = centred.index_select(0, index)
    unit.div_(torch.where(length > 0, length, 1.0).unsqueeze(1))
    variances, gaps = variances.index_select(0, index), torch.empty_like(length)
    number, means, squares, maxima = _extension().class_pairs(
        unit.data_ptr(),
        length.data_ptr(),
        variances.data_ptr(),
        *unit.shape,
        -1 / (len(unit) - 1) if len(unit) > 1 else 0.0,
        gaps.data_ptr(),
        torch.get_num_threads(),
    )
    unusable = 0 * (norms.sum() + variances.sum())
    poison = unusable if number else torch.full_like(unusable, torch.nan)
    means, squares, maxima = (centred.new_tensor(v) + poison for v in (means, squares, maxima))
    count = centred.new_tensor(number)
    largest = dict(zip(_MAXIMA, maxima, strict=True))
    means = dict(zip(_MEANS, means, strict=True), coherence=poison)
    squares = dict(zip(_MEANS, squares, strict=True), coherence=poison)
    # coinciding means without spread are 0 / 0, which a largest value must not pass over
    largest["cdnv"] = torch.where(means["cdnv"].isnan(), torch.nan, largest["cdnv"])
    directionless = (length == 0).any()  # a mean at m has no direction
    found = {
        name: Statistic(means[name], squares[name] / count, largest.get(name, poison))
        for name in quantities
    }
    nearest = torch.full_like(norms, torch.inf)
    alone = gaps == torch.finfo(gaps.dtype).max
    nearest[index] = torch.where(alone, torch.inf, gaps).sqrt() + unusable
    statistics = {
        name: undefined_where(directionless, value) if name in ABOUT_DIRECTIONS else value
        for name, value in found.items()
    }
    return Sweep(statistics, nearest)


def _each_state(
    centred: Tensor, norms: Tensor, variances: Tensor, present: Tensor, quantities: Sequence[str]
) -> Sweep:
    batch = norms.shape[:-1]
    parts = (part.flatten(0, len(batch) - 1) for part in (centred, norms, variances, present))
    found = [sweep(c, n, v, p, quantities) for c, n, v, p in zip(*parts, strict=True)]
    statistics = {
        name: Statistic(
            *(
                torch.stack(values).reshape(batch)
                for values in zip(*(one.statistics[name] for one in found), strict=True)
            )
        )
        for name in quantities
    }
    return Sweep(statistics, torch.stack([one.nearest for one in found]).reshape(norms.shape))


def _extension() -> ModuleType:
    assert cpu.extension is not None, cpu.import_error
    return cpu.extension


def _matrix(feats: Tensor) -> tuple[int, ...]:
    return feats.data_ptr(), cpu._FEATURE_CODES[feats.dtype], *feats.shape, feats.stride(0)


def _classes(labels: Tensor, number: int) -> Tensor:
    """A copy that the extension may index by: no other thread writes to it, nor is it negated."""
    return labels.to(torch.int64).clamp(0, number - 1).contiguous()
