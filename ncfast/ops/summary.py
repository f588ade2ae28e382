"""Primitives of class moments that many metrics share, for one state or many at once.

A metric is arithmetic on these numbers. The functions are the reference, in torch: for any device,
any number of classes, and any leading axes. `ncfast.ops.few_classes` has the same numbers from the
C++ extension, which is faster where the classes are few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ncfast.ops._raw import plain

_PIECE = 1 << 18  # entries: 2 MB of float64


class Moments(Protocol):
    """Class moments; leading axes in common are many states."""

    counts: Tensor  # (..., K) int64, or float64 weights
    means: Tensor  # (..., K, D)
    within_ss: Tensor  # (..., K)
    norm_sum: Tensor  # (...)
    norm_max: Tensor  # (...)


class Traces(NamedTuple):
    """Sums over the classes and what follows from them, (...) each."""

    total: Tensor  # N, the number of samples
    number: Tensor  # P, the number of present classes
    bessel: Tensor  # P / (P - 1), NaN with fewer than two present classes
    within: Tensor  # Tr(Sigma_W), population normalisation
    norm_mean: Tensor  # mean norm of the rows
    norm_max: Tensor  # their largest norm
    nan_if_invalid: Tensor  # NaN when the features or labels are unusable, or absent; else zero


class Spread(NamedTuple):
    """Mean and population variance over the present classes, (...) each."""

    mean: Tensor
    variance: Tensor


class Gram(NamedTuple):
    """Of a matrix A = L R^T of the products of the rows of present classes, (...) each."""

    trace: Tensor
    norm: Tensor  # norm_F(A)
    simplex_distance: Tensor  # norm_F(A / norm_F(A) - E), E = (I - 11^T/P) / sqrt(P - 1)


class Condition(NamedTuple):
    """Condition numbers of the present means, (...) each."""

    raw: Tensor
    centred: Tensor  # without the singular value that centring makes zero


class Ranks(NamedTuple):
    """Of the singular values of the centred means, (...) each; NaN if all are zero."""

    effective: Tensor  # exponential entropy of their shares
    stable: Tensor  # sum of their squares over the largest one


class Between(NamedTuple):
    """Tr(Sigma_B), (...) each."""

    trace: Tensor  # every class counting the same
    trace_sample: Tensor  # every sample counting the same


class Sizes(NamedTuple):
    """Norms of a classifier's rows of present classes together, (...) each."""

    frobenius: Tensor  # norm_F(W)
    sum: Tensor  # norm(sum_c w_c)
    gap: Tensor  # norm_F(W / norm_F(W) - M / norm_F(M)), M the centred means


class Rows(NamedTuple):
    """Of a classifier's rows w_c of present classes beside the centred means.

    NaN with fewer than two present classes, or where the moments are invalid.
    """

    size: Sizes
    norm: Spread  # of norm(w_c)
    dot: Spread  # of <w_c, mu_c - m>
    cosine: Spread  # of cos(w_c, mu_c - m)


class RowProducts(NamedTuple):
    """Gram matrices of a classifier's rows of present classes; NaN as `Rows` is."""

    cross: Gram  # W M^T
    gram: Gram  # of w_c minus their mean
    gram_raw: Gram  # of w_c


def traces(moments: Moments) -> Traces:
    """Sums over the classes."""
    total = moments.counts.sum(-1).to(torch.float64)
    number = (moments.counts > 0).sum(-1).to(torch.float64)
    within = moments.within_ss.sum(-1)
    return Traces(
        total,
        number,
        torch.where(number > 1, number / (number - 1), torch.nan),
        within / total,
        moments.norm_sum / total,
        moments.norm_max,
        0 * (moments.norm_sum + within) / total,
    )


def spread(values: Tensor, present: Tensor) -> Spread:
    """Mean and population variance of values (..., K) over the present classes."""
    number = present.sum(-1)
    mean = torch.where(present, values, 0.0).sum(-1) / number
    deviation = torch.where(present, values - mean.unsqueeze(-1), 0.0)
    return Spread(mean, deviation.square().sum(-1) / number)


def root(variance: Tensor) -> Tensor:
    """The square root of a variance; where it is zero, its gradient is zero instead of infinite."""
    if not variance.requires_grad:
        return variance.sqrt()
    positive = variance > 0
    return torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), variance.detach())


Piece = tuple[int, int] | None  # begin and number of some classes; None for all


def pieces(means: Tensor) -> list[Piece]:
    """Classes of ``means`` (..., K, D) piece by piece: what is computed of one fits the caches.

    Fresh memory for K x D entries costs more than most arithmetic on them. There is one piece where
    the entries are few, of many states, on an accelerator, or differentiated.
    """
    if not plain(means) or means.ndim != 2 or means.requires_grad or means.numel() < 2 * _PIECE:
        return [None]
    classes, most = len(means), max(1, _PIECE // means.shape[1])
    return [(begin, min(most, classes - begin)) for begin in range(0, classes, most)]


def _of(values: Tensor, piece: Piece, axis: int = -2) -> Tensor:
    """Values of the classes of a piece, which lie along ``axis``."""
    return values if piece is None else values.narrow(axis, *piece)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Values of all classes from those of the pieces."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), -1)


def _added(parts: Sequence[Tensor]) -> Tensor:
    """The sum over the pieces."""
    return parts[0] if len(parts) == 1 else torch.stack(list(parts)).sum(0)


def centred(
    means: Tensor, centre: Tensor, present: Tensor, smallest: Tensor
) -> tuple[Tensor, Tensor]:
    """Class means minus their mean, (..., K, D), and the norms of these differences, (..., K).

    Args:
        means: (..., K, D).
        centre: (..., D).
        present: (..., K) bool; both results are zero for absent classes.
        smallest: (...); a difference with at most this norm is rounding, and becomes zero.
    """
    parts, norms = pieces(means), []
    result = means if parts == [None] else torch.empty_like(means)
    for piece in parts:
        away = _of(means, piece) - centre.unsqueeze(-2)
        own = torch.linalg.vector_norm(away, dim=-1)
        zero = own <= smallest.unsqueeze(-1)
        kept = _of(present, piece, -1) & zero.logical_not()  # NaN stays NaN
        away = torch.where(kept.unsqueeze(-1), away, 0.0)
        norms.append(torch.where(kept, own, 0.0))
        if piece is None:
            result = away
        else:
            _of(result, piece).copy_(away)
    return result, _joined(norms)


def norm_of(values: Tensor, axes: tuple[int, ...] = (-1,)) -> Tensor:
    """Euclidean norm over ``axes`` of values whose squares may leave the range of float64."""
    scale = _scale(values, axes)
    scaled: Tensor = torch.linalg.vector_norm(values / scale, dim=axes, keepdim=True)
    return (scaled * scale).squeeze(axes)


def _scale(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The largest magnitude over ``axes``, which are kept; one where it is zero."""
    largest: Tensor = torch.linalg.vector_norm(values, ord=torch.inf, dim=axes, keepdim=True)
    return torch.where(largest > 0, largest, 1.0) + 0 * largest  # NaN stays NaN


def between_trace_sample(centred: Tensor, counts: Tensor) -> Tensor:
    """sum_c (n_c / N) norm(mu_c - mu_G)^2, (...), from the means centred on m, (..., K, D)."""
    # around m first: mu_G is then a small correction, and nothing cancels far from the origin
    share = counts.to(torch.float64) / counts.sum(-1, keepdim=True)
    centre = share.unsqueeze(-2) @ centred
    squares = [(_of(centred, piece) - centre).square().sum(-1) for piece in pieces(centred)]
    return (share * _joined(squares)).sum(-1)


def gram(
    left: Tensor,
    right: Tensor,
    present: Tensor,
    products: Callable[[], tuple[Tensor, Tensor]] | None = None,
) -> Gram:
    """Trace and norm of A = left right^T, and its distance from the Gram matrix E of a simplex ETF.

    More than D + 1 classes take only D x D products: expanding the square of the distance gives
    2 - 2 <A, E> / norm_F(A), which cancels near an ETF. More than D + 1 classes cannot be an ETF:
    the square is at least (P - 1 - D) / (P - 1), so the expansion is safe exactly where it saves
    anything. (It has an absolute error of 1e-8 when absent classes bring a perfect ETF of
    P <= D + 1 to K > D + 1.)

    Args:
        left: (..., K, D), zero rows for absent classes.
        right: likewise.
        present: (..., K) bool.
        products: left^T left and right^T right, (..., D, D) each, where the caller has them.
    """
    mask = present.to(left.dtype)
    number = mask.sum(-1)
    trace = (left * right).sum((-2, -1))
    if left.shape[-2] <= left.shape[-1] + 1:
        product = left @ right.mT
        norm = norm_of(product, (-2, -1))
        average = mask.unsqueeze(-1) * mask.unsqueeze(-2) / _matrix(number)
        etf = (torch.diag_embed(mask) - average) / _matrix((number - 1).sqrt())
        return Gram(trace, norm, torch.linalg.matrix_norm(product / _matrix(norm) - etf))
    first, second = _squares(left, right) if products is None else products()
    scales = _scale(first, (-2, -1)), _scale(second, (-2, -1))
    norm = ((first / scales[0]) * (second / scales[1])).sum((-2, -1)).sqrt()
    norm = norm * (scales[0].sqrt() * scales[1].sqrt()).squeeze(-1).squeeze(-1)
    inner = trace - (left.sum(-2) * right.sum(-2)).sum(-1) / number
    square = (2 - 2 * inner / (norm * (number - 1).sqrt())).clamp(min=0)
    return Gram(trace, norm, root(square) + 0 / (number - 1))  # NaN for one class, as above


def _matrix(values: Tensor) -> Tensor:
    return values.unsqueeze(-1).unsqueeze(-1)


def _squares(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    first = left.mT @ left
    return first, first if right is left else right.mT @ right


def _unit(rows: Tensor, norms: Tensor, kept: Tensor, piece: Piece = None) -> Tensor:
    """Rows over their norms, of the classes of one piece; zero where they are not kept."""
    unit = _of(rows, piece) / _of(norms, piece, -1).unsqueeze(-1)
    return torch.where(_of(kept, piece, -1).unsqueeze(-1), unit, 0.0)


def mean_cosine(rows: Tensor, norms: Tensor, kept: Tensor) -> Tensor:
    """Mean of the cosines over pairs of the rows that are kept, from sums alone, (...).

    Args:
        rows: (..., K, D).
        norms: (..., K), of the rows.
        kept: (..., K) bool.
    """
    sums, squares = [], []
    for piece in pieces(rows):
        unit = _unit(rows, norms, kept, piece)
        sums.append(unit.sum(-2))
        squares.append(unit.square().sum((-2, -1)))
    number = kept.sum(-1).to(rows.dtype)
    return (_added(sums).square().sum(-1) - _added(squares)) / (number * (number - 1))


def cosine_variance(rows: Tensor, norms: Tensor, present: Tensor) -> Tensor:
    """Population variance of the cosines over pairs of present classes; see `mean_cosine`."""
    mask = present.to(rows.dtype)
    number = mask.sum(-1)
    mean, unit = mean_cosine(rows, norms, present), _unit(rows, norms, present)
    if unit.shape[-2] <= unit.shape[-1] + 1:
        pairs = mask.unsqueeze(-1) * mask.unsqueeze(-2)
        deviation = (unit @ unit.mT - _matrix(mean)).mul_(pairs)
        deviation.diagonal(dim1=-2, dim2=-1).fill_(0)
        squares = deviation.square_().sum((-2, -1))
    else:
        # from the D x D product: more than D + 1 cosines spread too far for this to cancel
        squares = (unit.mT @ unit).square_().sum((-2, -1)) - number
        squares = squares - number * (number - 1) * mean.square()
    return (squares / (number * (number - 1))).clamp(min=0)


def rows(weight: Tensor, centred: Tensor, present: Tensor, undefined: Tensor) -> Rows:
    """What NC3 needs of a classifier beside the centred means.

    Args:
        weight: (..., K, D) rows of any floating dtype; those of absent classes count as zero.
        centred: (..., K, D) class means minus their mean, zero for absent classes.
        present: (..., K) bool.
        undefined: (...), NaN where the results are to be NaN, else zero.
    """
    parts = pieces(centred)

    def pair(piece: Piece) -> tuple[Tensor, Tensor]:
        own, kept = _of(weight, piece).to(centred.dtype), _of(present, piece, -1)
        return torch.where(kept.unsqueeze(-1), own, 0.0), _of(centred, piece)

    first = pair(parts[0])
    found = [_beside(*(first if piece is parts[0] else pair(piece))) for piece in parts]
    lengths, norms, dots = (_joined([each[part] for each in found]) for part in range(3))
    total = torch.linalg.vector_norm(_added([each[3] for each in found]), dim=-1)
    cosines = dots / (lengths * norms)
    size, other = (torch.linalg.vector_norm(each, dim=-1) for each in (lengths, norms))
    gaps = []
    for piece in parts:
        own, mean = first if piece is parts[0] else pair(piece)
        gaps.append(torch.linalg.matrix_norm(own / _matrix(size) - mean / _matrix(other)))
    gap = gaps[0] if len(gaps) == 1 else torch.linalg.vector_norm(torch.stack(gaps), dim=0)
    spreads = (spread(values, present) for values in (lengths, dots, cosines))
    return Rows(
        Sizes(size + undefined, total + undefined, gap + undefined),
        *(Spread(each.mean + undefined, each.variance + undefined) for each in spreads),
    )


def _beside(own: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Norms of rows and of means, their products, (..., K) each, and the sum of the rows."""
    norms = (torch.linalg.vector_norm(each, dim=-1) for each in (own, mean))
    return *norms, (own * mean).sum(-1), own.sum(-2)


def row_products(
    weight: Tensor,
    centred: Tensor,
    present: Tensor,
    undefined: Tensor,
    product_of_means: Callable[[], Tensor],
) -> RowProducts:
    """Gram matrices of a classifier's rows.

    The first arguments are those of `rows`, with rows of zeros for absent classes.
    ``product_of_means`` gives centred^T centred, (..., D, D), and is called with more than D + 1
    classes only.
    """
    kept: list[Tensor] = []

    def own() -> Tensor:
        if not kept:  # torch.compile cannot trace functools.cache
            kept.append(weight.mT @ weight)
        return kept[0]

    mean = weight.sum(-2, keepdim=True) / _matrix(present.sum(-1))
    around = torch.where(present.unsqueeze(-1), weight - mean, 0.0)
    found = (
        gram(weight, centred, present, lambda: (own(), product_of_means())),
        gram(around, around, present),
        gram(weight, weight, present, lambda: (own(), own())),
    )
    return RowProducts(*(Gram(*(value + undefined for value in each)) for each in found))
