"""Margins between class means and an affine rule, for all pairs of classes.

With m_ck = <w_c - w_k, mu_c> + b_c - b_k, every class c gets three numbers over the others:
the sums of v / (v + m_ck^2) with v the variance of the class along w_c - w_k ("projected") and
with v = V_c norm(w_c - w_k)^2 ("trace"), one where m_ck <= 0; and the distance from mu_c to the
nearest boundary m = 0, zero where the rule does not choose c there ("radius").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast.ops import _raw
from ncfast.ops.blocks import block_rows, take_rows
from ncfast.ops.pairs import edge, one_minus_cosine, squared_distance
from ncfast.ops.runs import Pieces, sort_by_class

_SMALL = 1 << 25  # products that one thread does as fast as a matrix library does
_TABLE = 1 << 24  # entries of a (K, k) table of projected variances: 128 MB


class Margins(NamedTuple):
    """Results of the margins of each class, (K,) float64 each."""

    projected: Tensor
    trace: Tensor
    radius: Tensor


class Classes(NamedTuple):
    """The classes' own: means (K, D), total variances V_c (K,), counts (K,)."""

    means: Tensor
    variances: Tensor
    counts: Tensor


def reference(
    classes: Classes,
    rows: Tensor,
    bias: Tensor | None,
    feats: Tensor | None = None,
    labels: Tensor | None = None,
) -> Margins:
    """Margins in plain torch, tile by tile.

    Args:
        classes: see `Classes`.
        rows: (K, D) float64, with their mean taken out: differences do not see it.
        bias: (K,) float64; zero when None.
        feats: (N, D) features; without them "projected" is NaN.
        labels: (N,) classes in 0..K-1.
    """
    bias = rows.new_zeros(len(rows)) if bias is None else bias
    trace, radius = _over_tiles(classes, rows, bias)
    projected = torch.full_like(trace, torch.nan)
    if feats is not None and labels is not None:
        projected = torch.zeros_like(trace)
        for others in _split(len(rows), max(1, _TABLE // len(rows))):
            spread = _projected_variances(classes, rows, feats, labels, others)
            margin = _margin(classes, rows, bias, range(len(rows)), others)
            projected += _others(_cantelli(spread, margin), range(len(rows)), others).sum(1)
    return Margins(projected, trace, radius)


def _over_tiles(classes: Classes, rows: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    norms = torch.linalg.vector_norm(rows, dim=1)
    unit = rows / torch.where(norms > 0, norms, 1.0).unsqueeze(1)
    tiles = list(_split(len(rows), edge(rows)))
    traces, radii = [], []
    for some in tiles:
        trace = torch.zeros_like(_part(norms, some))
        radius = torch.full_like(trace, torch.inf)
        for others in tiles:
            h = one_minus_cosine(_part(unit, some), _part(unit, others), diagonal=some == others)
            gap = squared_distance(_part(norms, some), _part(norms, others), h)
            margin = _margin(classes, rows, bias, some, others)
            spread = _part(classes.variances, some).unsqueeze(1) * gap
            trace = trace + _others(_cantelli(spread, margin), some, others).sum(1)
            reach = torch.where(margin > 0, margin / gap.sqrt(), 0.0)
            radius = torch.minimum(radius, _others(reach, some, others, torch.inf).amin(1))
        traces.append(trace)
        radii.append(radius)
    return torch.cat(traces), torch.cat(radii)


def _margin(classes: Classes, rows: Tensor, bias: Tensor, some: range, others: range) -> Tensor:
    means = _part(classes.means, some)
    own = (_part(rows, some) * means).sum(1) + _part(bias, some)
    return own.unsqueeze(1) - torch.addmm(_part(bias, others), means, _part(rows, others).T)


def _cantelli(spread: Tensor, margin: Tensor) -> Tensor:
    # without a positive margin the term is one, also where the two rows are equal; the quotient
    # that is not taken has no 0 / 0, which would be a NaN in the gradient
    inside = margin > 0
    total = torch.where(inside, spread + margin.square(), 1.0)
    return torch.where(inside, spread / total, 1.0)


def _others(values: Tensor, some: range, others: range, itself: float = 0.0) -> Tensor:
    index = torch.arange(max(some.stop, others.stop), device=values.device)
    same = _part(index, some).unsqueeze(1) == _part(index, others)
    return torch.where(same, itself, values)


def _projected_variances(
    classes: Classes, rows: Tensor, feats: Tensor, labels: Tensor, others: range
) -> Tensor:
    """(K, k): mean over class c of <w_c - w_k, g - mu_c>^2."""
    total = rows.new_zeros((len(rows), len(others)))
    add_projected_squares(total, classes.means, rows, feats, labels, others)
    return _mean_by_class(total, classes)


def add_projected_squares(
    total: Tensor, means: Tensor, rows: Tensor, feats: Tensor, labels: Tensor, others: range
) -> None:
    """Add <w_c - w_k, g - mu_c>^2 of every row to ``total`` (K, k), by its class c.

    Args:
        total: the sums so far; its columns are the classes ``others``.
        means: (K, D) mu_c.
        rows: (K, D) w_c.
        feats: (N, D) features g.
        labels: (N,) their classes.
        others: the classes k.
    """
    columns = _part(rows, others)

    def squares(row: Tensor, label: Tensor) -> Tensor:
        residual = take_rows(feats, row) - means.index_select(0, label)
        own = (residual * rows.index_select(0, label)).sum(1, keepdim=True)
        return torch.addmm(own, residual, columns.T, alpha=-1).square_()

    # with labels out of range the means are NaN, so that the results are too
    runs = sort_by_class(labels.to(torch.int64).clamp(0, len(means) - 1), len(means))
    block = block_rows(feats, len(others))
    total += Pieces(runs, block, len(others)).sums(squares)


def add_squares_of_few(
    total: Tensor, means: Tensor, rows: Tensor, feats: Tensor, labels: Tensor
) -> bool:
    """`add_projected_squares` for all classes by the extension, where the work is small.

    Args:
        total: (K, K) or more rows, contiguous.
        means: (K, D) mu_c, float64.
        rows: (K, D) w_c, float64.
        feats: (N, D) features g.
        labels: (N,) their classes; those outside 0..K-1 add nothing.

    Returns:
        False, with nothing added, where the reference must do it.
    """
    small = feats.shape[0] * rows.numel() <= _SMALL
    if not (small and _raw.readable(feats) and _raw.plain(total, means, rows, labels)):
        return False
    labels, code = _raw.with_code(labels)
    means, rows = means.contiguous(), rows.contiguous()
    _raw.loaded().add_projected_squares(
        *_raw.matrix(feats),
        labels.data_ptr(),
        code,
        labels.stride(0),
        len(rows),
        means.data_ptr(),
        rows.data_ptr(),
        total.data_ptr(),
    )
    return True


def cantelli_sums(classes: Classes, rows: Tensor, bias: Tensor | None, squares: Tensor) -> Tensor:
    """`Margins.projected`, (K,), from sums of projected squares instead of features.

    Args:
        classes: see `Classes`.
        rows: (K, D) float64, with their mean taken out.
        bias: (K,) float64; zero when None.
        squares: (K, K) of `add_projected_squares`.
    """
    bias = rows.new_zeros(len(rows)) if bias is None else bias
    everything = range(len(rows))
    total = rows.new_zeros(len(rows))
    for others in _split(len(rows), max(1, _TABLE // len(rows))):
        spread = _mean_by_class(squares.narrow(1, others.start, len(others)), classes)
        margin = _margin(classes, rows, bias, everything, others)
        total += _others(_cantelli(spread, margin), everything, others).sum(1)
    return total


def _mean_by_class(total: Tensor, classes: Classes) -> Tensor:
    return total / classes.counts.clamp(min=1).to(torch.float64).unsqueeze(1)


def _part(tensor: Tensor, rows: range) -> Tensor:
    return tensor.narrow(0, rows.start, len(rows))


def _split(number: int, width: int) -> Iterator[range]:
    return (range(start, min(start + width, number)) for start in range(0, number, width))


def _cpu(
    classes: Classes,
    rows: Tensor,
    bias: Tensor | None,
    feats: Tensor | None = None,
    labels: Tensor | None = None,
) -> Margins:
    """Call the extension; its "radius" is a lower bound of the reference's."""
    without = feats is None or labels is None
    if feats is None or labels is None:
        feats, labels = classes.means.narrow(0, 0, 0), classes.counts
    centre = classes.means.mean(0)
    offset = rows @ centre if bias is None else torch.addmv(bias, rows, centre)
    given = [classes.means, classes.means - centre, classes.variances, classes.counts, rows, offset]
    given = [tensor.contiguous() for tensor in (_raw.classes_copy(labels, len(rows)), *given)]
    projected, trace, radius = (rows.new_empty(len(rows)) for _ in range(3))
    _raw.loaded().margins(
        *_raw.matrix(feats),
        *(tensor.data_ptr() for tensor in given),
        len(rows),
        projected.data_ptr(),
        trace.data_ptr(),
        radius.data_ptr(),
        torch.get_num_threads(),
    )
    return Margins(projected.fill_(torch.nan) if without else projected, trace, radius)


def margins(
    backend: str,
    classes: Classes,
    rows: Tensor,
    bias: Tensor | None,
    feats: Tensor | None = None,
    labels: Tensor | None = None,
) -> Margins:
    """`reference`, or the extension where ``backend`` and the tensors allow it."""
    decides = classes.means if feats is None else feats
    run = _cpu if backend != "reference" and _raw.readable(decides) else reference
    return run(classes, rows, bias, feats, labels)
