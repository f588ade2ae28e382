"""Distance of a Gram matrix from the simplex ETF, and cosines, without K x K where K > D + 1."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def etf_distance(
    left: Tensor,
    right: Tensor,
    present: Tensor,
    products: Callable[[], tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """norm_F(A / norm_F(A) - E) with A = left right^T and E the simplex ETF of present classes.

    Expanding the square gives 2 - 2 <A, E> / norm_F(A), which needs only D x D products but
    cancels near an ETF. More than D + 1 classes cannot be an ETF: the square is at least
    (P - 1 - D) / (P - 1), so the expansion is safe exactly where it saves anything. (It has an
    absolute error of 1e-8 when absent classes bring a perfect ETF of P <= D + 1 to K > D + 1.)

    Args:
        left: (K, D), zero rows for absent classes.
        right: (K, D), likewise.
        present: (K,) bool.
        products: left^T left and right^T right, (D, D) each, where the caller has them.
    """
    mask = present.to(left.dtype)
    number = mask.sum()
    if left.shape[0] <= left.shape[1] + 1:
        product = left @ right.T
        etf = (torch.diag(mask) - torch.outer(mask, mask) / number) / (number - 1).sqrt()
        return torch.linalg.matrix_norm(product / torch.linalg.matrix_norm(product) - etf)
    first, second = _products(left, right) if products is None else products()
    norm = (first * second).sum().sqrt()
    inner = (left * right).sum() - left.sum(0) @ right.sum(0) / number
    return (2 - 2 * inner / (norm * (number - 1).sqrt())).clamp(min=0).sqrt()


def _products(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    first = left.T @ left
    return first, first if right is left else right.T @ right


def mean_cosine(unit: Tensor, number: Tensor) -> Tensor:
    """Mean of the cosines over pairs of the ``number`` present classes, from sums alone.

    Args:
        unit: (K, D) unit rows, zero for absent classes.
        number: P, () float64.
    """
    return (unit.sum(0).square().sum() - unit.square().sum()) / (number * (number - 1))


def cosine_deviation(unit: Tensor, present: Tensor) -> Tensor:
    """Population standard deviation of the cosines over pairs of present classes."""
    mask = present.to(unit.dtype)
    number = mask.sum()
    mean = mean_cosine(unit, number)
    if unit.shape[0] <= unit.shape[1] + 1:
        deviation = (unit @ unit.T - mean).mul_(torch.outer(mask, mask)).fill_diagonal_(0)
        squares = deviation.square_().sum()
    else:
        # from the D x D product: more than D + 1 cosines spread too far for this to cancel
        squares = (unit.T @ unit).square_().sum() - number
        squares = squares - number * (number - 1) * mean.square()
    return (squares / (number * (number - 1))).clamp(min=0).sqrt()
