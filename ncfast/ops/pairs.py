"""Statistics over all pairs of classes, tile by tile, in memory that does not grow with K^2.

A tile is a product of two blocks of unit vectors, which gives h = 1 - cos for every pair at the
speed of a matrix product. Where h is small the product has cancelled, and the tile is computed
again from differences of coordinates; an accelerator takes the differences at once, because
asking whether any h is small would wait for it. Everything else follows from h without
cancellation: norm(u - v)^2 = 2 h and norm(a - b)^2 = (|a| - |b|)^2 + 2 |a| |b| h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast._validate import is_on_host
from ncfast.ops import _raw

_EDGE_CPU, _EDGE_GPU = 512, 4096  # tiles of 2 MB stay in a CPU's cache; 128 MB fill a GPU
_CLOSE = 1e-5  # below this 1 - cos has lost more than 1e-10 of its value
# the extension's statistics, in the order of csrc/products/second_pass.h
_MEANS = ("cdnv", "angle", "distance", "log", "riesz")
_MAXIMA = ("cdnv", "coherence")


class Statistic(NamedTuple):
    """Mean, population variance and maximum over pairs, (...) each; NaN without a pair.

    Variance and maximum are not computed for a quantity whose metrics do not read them; the fields
    then hold no meaning.
    """

    mean: Tensor
    variance: Tensor
    maximum: Tensor


class PairStatistics(NamedTuple):
    """Results of one pass over the pairs of classes."""

    statistics: dict[str, Statistic]
    nearest: Tensor  # distance of each mean from the nearest other present one, (..., K)


class Tile(NamedTuple):
    """A block of pairs (i, j)."""

    h: Tensor  # 1 - cos(mu_i - m, mu_j - m); 1 on the diagonal of the whole matrix
    distance: Tensor  # norm(mu_i - mu_j)^2
    variances: Tensor  # V_i + V_j
    simplex: Tensor  # cosine of a simplex ETF, -1 / (P - 1)


QUANTITIES: dict[str, Callable[[Tile], Tensor]] = {
    "cdnv": lambda tile: tile.variances / (2 * tile.distance),
    "angle": lambda tile: (1 - tile.simplex - tile.h).abs_(),
    "coherence": lambda tile: (1 - tile.h).abs_(),
    "distance": lambda tile: (2 * tile.h).sqrt_(),
    "log": lambda tile: (2 * tile.h).log_().mul_(-0.5),
    "riesz": lambda tile: (2 * tile.h).rsqrt_(),
}
ABOUT_DIRECTIONS = frozenset(QUANTITIES) - {"cdnv"}
_NEED_VARIANCE = frozenset({"distance", "log", "riesz"})
_NEED_MAXIMUM = frozenset({"cdnv", "coherence"})


def reference(
    centred: Tensor, norms: Tensor, variances: Tensor, present: Tensor, quantities: Sequence[str]
) -> PairStatistics:
    """Statistics of several quantities over pairs of present classes, from one pass over the pairs.

    Args:
        centred: (..., K, D) class means minus their mean, zero rows for absent classes; the
            leading axes are states, each with pairs of its own.
        norms: (..., K) their norms.
        variances: (..., K) V_c.
        present: (..., K) bool.
        quantities: names out of `QUANTITIES`.
    """
    # absent classes get weight zero and values that keep every quantity finite
    weight = present.to(centred.dtype)
    length = torch.where(present, norms, 1.0)
    unit = centred / torch.where(norms > 0, norms, 1.0).unsqueeze(-1)
    unit = unit + (norms * 0).unsqueeze(-1)  # NaN stays NaN
    simplex = (-1 / (weight.sum(-1) - 1)).unsqueeze(-1).unsqueeze(-1)
    running = {
        name: _Running(weight, name in _NEED_VARIANCE, name in _NEED_MAXIMUM) for name in quantities
    }
    nearest = torch.full_like(norms, torch.inf)
    blocks = [unit.split(edge(centred), -2)]
    blocks += [part.split(edge(centred), -1) for part in (length, variances, weight)]
    for i in range(len(blocks[0])):
        for j in range(i, len(blocks[0])):
            (u, v), (a, b), (s, t), (p, q) = ((block[i], block[j]) for block in blocks)
            h = one_minus_cosine(u, v, diagonal=i == j)
            tile = Tile(
                h,
                squared_distance(a, b, h),
                s.unsqueeze(-1) + t.unsqueeze(-2),
                simplex,
            )
            _note_nearest(nearest, tile.distance, (i, j), (p, q))
            for name in quantities:
                running[name].add(QUANTITIES[name](tile), p, q, diagonal=i == j)
    directionless = (present & (norms == 0)).any(-1)  # a mean at m has no direction
    found = {name: state.finish() for name, state in running.items()}
    statistics = {
        name: undefined_where(directionless, value) if name in ABOUT_DIRECTIONS else value
        for name, value in found.items()
    }
    return PairStatistics(statistics, torch.where(present, nearest.sqrt(), torch.inf))


def _note_nearest(
    nearest: Tensor, distance: Tensor, place: tuple[int, int], weights: tuple[Tensor, Tensor]
) -> None:
    """Lower ``nearest`` (..., K) to the smallest squared distances of a tile."""
    i, j = place
    if i == j:
        distance = distance.clone()
        distance.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    for k, others, dim in ((i, weights[1].unsqueeze(-2), -1), (j, weights[0].unsqueeze(-1), -2)):
        smallest = torch.where(others > 0, distance, torch.inf).amin(dim)
        nearest.narrow(-1, k * edge(nearest), smallest.shape[-1]).clamp_(max=smallest)


def undefined_where(condition: Tensor, value: Statistic) -> Statistic:
    """NaN in place of the values where the condition holds."""
    return Statistic(*(torch.where(condition, torch.nan, v) for v in value))


class _Running:
    """Weighted count, mean, sum of squared deviations and maximum, merged tile by tile (Chan)."""

    def __init__(self, like: Tensor, variance: bool, maximum: bool) -> None:
        self.count, self.mean, self.squares, self.maximum, self.infinite = like.new_zeros(
            (5, *like.shape[:-1])
        ).unbind()
        self.wants_variance, self.wants_maximum = variance, maximum

    def add(self, values: Tensor, p: Tensor, q: Tensor, *, diagonal: bool) -> None:
        if diagonal:
            values = values.triu(1)
            count = (p.sum(-1).square() - p.square().sum(-1)) / 2
        else:
            count = p.sum(-1) * q.sum(-1)
        # weights zero and one: a product with a vector sums without a mask or a temporary
        mean = _weighted(p, values, q) / count.clamp(min=1)
        total = (self.count + count).clamp(min=1)
        share, step = count / total, mean - self.mean
        if self.wants_variance:
            deviation = (values - mean.unsqueeze(-1).unsqueeze(-1)).square_()
            deviation = deviation.triu_(1) if diagonal else deviation
            squares = self.squares + _weighted(p, deviation, q)
            self.squares = squares + step.square() * self.count * share
        if self.wants_maximum:
            largest = (values * p.unsqueeze(-1)).mul_(q.unsqueeze(-2)).amax((-2, -1))
            self.maximum = torch.maximum(self.maximum, largest)
        self.mean = self.mean + step * share
        self.infinite = self.infinite + mean
        self.count = self.count + count

    def finish(self) -> Statistic:
        nothing = torch.where(self.count > 0, 0.0, torch.nan).to(self.mean.dtype)
        variance = self.squares / self.count.clamp(min=1)
        # differences of infinite means are NaN, their sum is infinite
        finite = self.infinite.isfinite()
        mean = torch.where(finite, self.mean, self.infinite) + nothing
        variance = torch.where(finite, variance, torch.nan) + nothing
        return Statistic(mean, variance, self.maximum + nothing)


def _weighted(left: Tensor, values: Tensor, right: Tensor) -> Tensor:
    """left^T values right, (...): a product with a vector is faster than one with a column."""
    if values.ndim == 2:
        return left @ (values @ right)
    return (left * (values @ right.unsqueeze(-1)).squeeze(-1)).sum(-1)


def edge(rows: Tensor) -> int:
    """Rows and columns of a tile."""
    return _EDGE_CPU if rows.device.type == "cpu" else _EDGE_GPU


def one_minus_cosine(u: Tensor, v: Tensor, *, diagonal: bool = False) -> Tensor:
    """1 - <u_i, v_j> of unit rows, (..., I, J); a zero row counts as orthogonal to everything.

    A matrix product where that is accurate. An accelerator takes differences of coordinates at
    once, because asking whether any value is small would wait for it.
    """
    if is_on_host(u):
        h = torch.addmm(u.new_ones(()), u, v.T, alpha=-1) if u.ndim == 2 else 1 - u @ v.mT
        if diagonal:
            _fill_diagonal(h)
        if bool((h.amin() > _CLOSE).logical_not()):
            h = torch.where(h < _CLOSE, _from_differences(u, v), h)
    else:
        h = _from_differences(u, v)
    return _fill_diagonal(h) if diagonal else h


def _fill_diagonal(h: Tensor) -> Tensor:
    h.diagonal(dim1=-2, dim2=-1).fill_(1)
    return h


def _from_differences(u: Tensor, v: Tensor) -> Tensor:
    distance = torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist")
    half = distance.square().mul_(0.5)
    # a zero vector stands for a mean without a direction: its cosine counts as zero, h as one
    zero = (u.square().sum(-1) == 0).unsqueeze(-1) | (v.square().sum(-1) == 0).unsqueeze(-2)
    return torch.where(zero, 1.0, half)


def squared_distance(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """norm(x_i - y_j)^2 from the norms a (..., I) and b (..., J) and h = 1 - cos."""
    a, b = a.unsqueeze(-1), b.unsqueeze(-2)
    return (2 * a * b).mul_(h).add_((a - b).square_())


def _cpu(
    centred: Tensor, norms: Tensor, variances: Tensor, present: Tensor, quantities: Sequence[str]
) -> PairStatistics:
    """Call the extension, which computes all quantities in one loop over the tiles."""
    if centred.ndim > 2:
        return _each_state(centred, norms, variances, present, quantities)
    index = present.nonzero().squeeze(1)
    length = norms.index_select(0, index)
    unit = centred.index_select(0, index)
    unit.div_(torch.where(length > 0, length, 1.0).unsqueeze(1))
    variances, gaps = variances.index_select(0, index), torch.empty_like(length)
    number, means, squares, maxima = _raw.loaded().class_pairs(
        unit.data_ptr(),
        length.data_ptr(),
        variances.data_ptr(),
        *unit.shape,
        -1 / (len(unit) - 1) if len(unit) > 1 else 0.0,
        gaps.data_ptr(),
        torch.get_num_threads(),
    )
    unusable = 0 * (norms.sum() + variances.sum())
    nan_if_invalid = unusable if number else torch.full_like(unusable, torch.nan)
    means, squares, maxima = (
        centred.new_tensor(values) + nan_if_invalid for values in (means, squares, maxima)
    )
    count = centred.new_tensor(number)
    largest = dict(zip(_MAXIMA, maxima, strict=True))
    means = dict(zip(_MEANS, means, strict=True), coherence=nan_if_invalid)
    squares = dict(zip(_MEANS, squares, strict=True), coherence=nan_if_invalid)
    # coinciding means without spread give 0 / 0: the maximum must be NaN too
    largest["cdnv"] = torch.where(means["cdnv"].isnan(), torch.nan, largest["cdnv"])
    directionless = (length == 0).any()  # a mean at m has no direction
    found = {
        name: Statistic(means[name], squares[name] / count, largest.get(name, nan_if_invalid))
        for name in quantities
    }
    nearest = torch.full_like(norms, torch.inf)
    alone = gaps == torch.finfo(gaps.dtype).max
    nearest[index] = torch.where(alone, torch.inf, gaps).sqrt() + unusable
    statistics = {
        name: undefined_where(directionless, value) if name in ABOUT_DIRECTIONS else value
        for name, value in found.items()
    }
    return PairStatistics(statistics, nearest)


def _each_state(
    centred: Tensor, norms: Tensor, variances: Tensor, present: Tensor, quantities: Sequence[str]
) -> PairStatistics:
    batch = norms.shape[:-1]
    parts = (part.flatten(0, len(batch) - 1) for part in (centred, norms, variances, present))
    found = [_cpu(c, n, v, p, quantities) for c, n, v, p in zip(*parts, strict=True)]
    statistics = {
        name: Statistic(
            *(
                torch.stack(values).reshape(batch)
                for values in zip(*(one.statistics[name] for one in found), strict=True)
            )
        )
        for name in quantities
    }
    return PairStatistics(
        statistics, torch.stack([one.nearest for one in found]).reshape(norms.shape)
    )


def pair_statistics(
    backend: str,
    centred: Tensor,
    norms: Tensor,
    variances: Tensor,
    present: Tensor,
    quantities: Sequence[str],
) -> PairStatistics:
    """`reference`, or the extension where ``backend`` and the tensors allow it."""
    usable = backend != "reference" and _raw.readable(centred.flatten(0, -2))
    return (_cpu if usable else reference)(centred, norms, variances, present, quantities)
