"""Mutual information of Gaussians with the covariance of the data: a reference, not a bound.

Warnings compare estimates by neighbours with it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ncfast.information.duplicates import private_generator
from ncfast.information.neighbors import knn
from ncfast.information.preprocess import normal_scores

_RANK = 1e-10  # smaller eigenvalues, relative to the largest, count as zero
_ROUNDING = 1e-8  # residuals of unit-variance columns below this size count as zero
SMOOTHED = 10  # number of neighbours in z over which a residual is averaged
PLENTY = 20  # samples per column from which in-sample correlations are accurate enough


def _whiten(rows: Tensor) -> Tensor:
    """(N, r) centred rows with identity covariance, where r is their rank."""
    centred = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
    kept = values > _RANK * values[-1].clamp(min=torch.finfo(rows.dtype).tiny)
    return centred @ (vectors[:, kept] / values[kept].sqrt())


def _information(correlation: Tensor) -> float:
    rest = 1 - correlation.clamp(max=1.0).square()
    return -0.5 * float(torch.where(rest > 1e-12, rest, 0.0).log().sum())


def canonical_information(x: Tensor, y: Tensor, freedom: int | None = None) -> float:
    """-1/2 sum ln(1 - r^2) over the canonical correlations r, minus its bias dx dy / 2N, in nats.

    This is exact for Gaussians and ignores nonlinear dependence. It is infinite if one block
    determines a linear combination of the other's columns.

    `freedom`: replaces N in the bias if not all rows are independent.
    """
    first, second = _whiten(x), _whiten(y)
    if first.shape[1] == 0 or second.shape[1] == 0:
        return 0.0
    value = _information(torch.linalg.svdvals(first.T @ second / len(x)))
    bias = first.shape[1] * second.shape[1] / (2 * (freedom or len(x)))
    return value if math.isinf(value) else value - bias


def held_out_information(x: Tensor, y: Tensor) -> float:
    """`canonical_information` for many columns, from correlations on held-out rows.

    Canonical directions are fitted to one half of the rows, with covariances shrunk towards the
    identity by the share columns / rows. The correlations of their normal scores are taken on the
    other half; only those above 3 / sqrt(rows) count. The result is the mean over both choices of
    the half. It is zero for independent x and y. Each pair of directions alone gives a lower bound
    of I(X;Y) for any distribution.

    Args:
        x: (N, dx) columns of about unit variance.
        y: (N, dy) columns of about unit variance.
    """
    one, two = halves(len(x), x.device)
    return (_carried_over(x, y, one, two) + _carried_over(x, y, two, one)) / 2


def halves(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row numbers of two random halves of the rows, the same in every call."""
    generator = private_generator(torch.device("cpu"))
    order = torch.randperm(count, generator=generator, device="cpu").to(device)
    return order[::2], order[1::2]


def _carried_over(x: Tensor, y: Tensor, fitted: Tensor, tested: Tensor) -> float:
    u, v = (normal_scores(code) for code in canonical_codes(x, y, fitted, tested))
    correlation = (u * v).sum(0) / u.square().sum(0)
    return _information(correlation[correlation > 3 / math.sqrt(len(tested))])


def canonical_codes(x: Tensor, y: Tensor, fitted: Tensor, tested: Tensor) -> tuple[Tensor, Tensor]:
    """Canonical variates (M, r) of the tested rows, in directions fitted to the fitted rows."""
    first, second = _shrunk_code(x, fitted), _shrunk_code(y, fitted)
    cross = first[fitted].T @ second[fitted] / len(fitted)
    left, _, right = torch.linalg.svd(cross, full_matrices=False)
    return first[tested] @ left, second[tested] @ right.T


def _shrunk_code(rows: Tensor, fitted: Tensor) -> Tensor:
    """(N, r) rows times the inverse root of the covariance of the fitted rows.

    The covariance is shrunk towards the identity by columns / rows. Only the span of the fitted
    rows is kept. It comes from the smaller of the two Gram matrices.
    """
    centred = rows - rows[fitted].mean(0)
    part = centred[fitted]
    count, dim = part.shape
    values, vectors = torch.linalg.eigh(part.T @ part if dim <= count else part @ part.T)
    kept = values > _RANK * values[-1].clamp(min=torch.finfo(rows.dtype).tiny)
    values, vectors = values[kept], vectors[:, kept]
    axes = vectors if dim <= count else part.T @ vectors / values.sqrt()
    share = min(1.0, dim / count)
    return centred @ (axes / ((1 - share) * values / count + share).sqrt())


def linear_information(x: Tensor, y: Tensor, freedom: int | None = None) -> float:
    """Information in the linear dependence of columns of about unit variance, in nats.

    Correlations are taken in-sample if there are many samples per column, and on held-out rows
    otherwise. NaN with fewer than 40 rows.
    """
    rows = freedom or len(x)
    if rows >= PLENTY * (x.shape[1] + y.shape[1]):
        return canonical_information(x, y, freedom)
    return held_out_information(x, y) if rows >= 40 else math.nan


def partial_information(x: Tensor, y: Tensor, z: Tensor, backend: str = "auto") -> float:
    """`linear_information` of the residuals of x and y after a fit by z.

    For Gaussians this is I(X;Y|Z). The fit is a least-squares fit by z, with its squares if there
    are enough samples. The mean residual over neighbours in z is then subtracted, which removes
    curved dependence on z. The result is NaN if z has too many columns for the samples.

    Args:
        x: (N, dx) normal scores.
        y: (N, dy) normal scores.
        z: (N, dz) normal scores.
        backend: engine of the neighbour search.
    """
    curved = len(z) >= PLENTY * 2 * z.shape[1]
    basis = _whiten(torch.cat((z, z.square()), 1) if curved else z) / math.sqrt(len(z))
    freedom = len(z) - basis.shape[1] - 1
    if freedom < 40:
        return math.nan
    near = knn(z, SMOOTHED, metric="linf", backend=backend).indices
    first, second = (_rest(rows, basis, near) for rows in (x, y))
    return linear_information(first, second, freedom)


def _rest(rows: Tensor, basis: Tensor, near: Tensor) -> Tensor:
    rest = rows - rows.mean(0)
    rest = rest - basis @ (basis.T @ rest)
    rest = rest - rest[near].mean(1)
    size = rest.square().mean(0).sqrt()
    return torch.where(size > _ROUNDING, rest / size, 0.0)  # z determines columns without a rest
