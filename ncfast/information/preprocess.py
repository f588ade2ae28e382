"""Transformations that leave mutual information as it is and help the estimators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ncfast.information.samples import check_choice

Preprocess = Literal["standardize", "rank"] | None


def standardize(rows: Tensor) -> Tensor:
    """(N, d), each column with mean zero and standard deviation one; constant ones zero."""
    rows = in_range(rows, dim=0)
    centred = rows - rows.mean(0)
    # a constant column leaves rounding of its mean behind, which must not be blown up
    noise = 8 * torch.finfo(rows.dtype).eps * rows.abs().amax(0)
    spread = centred.square().mean(0).sqrt()
    return torch.where(spread > noise, centred / spread, 0.0)


def normal_scores(rows: Tensor) -> Tensor:
    """(N, d), each column's ranks as Gaussian quantiles; ties share their mean rank."""
    columns = [_mean_ranks(column) for column in rows.T]
    return torch.special.ndtri(torch.stack(columns, 1) / (len(rows) + 1))


def _mean_ranks(column: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(column, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).to(column.dtype)
    return (last - (counts - 1) / 2)[inverse]


def transform(rows: Tensor, preprocess: Preprocess) -> Tensor:
    """The rows after the transformation that the option names.

    Raises:
        ValueError: an unknown option.
    """
    check_choice("preprocess", preprocess, ("standardize", "rank", None))
    if preprocess == "standardize":
        return standardize(rows)
    return normal_scores(rows) if preprocess == "rank" else rows


def by_class(function: Callable[[Tensor], Tensor], rows: Tensor, classes: Tensor) -> Tensor:
    """The function applied to the rows of each class by themselves."""
    order = classes.argsort(stable=True)
    sizes = torch.bincount(classes).tolist()
    parts = [function(part) for part in rows[order].split(sizes) if len(part)]
    out = torch.empty_like(rows)
    out[order] = torch.cat(parts)
    return out


def in_range(rows: Tensor, dim: int | None = None) -> Tensor:
    """Rows (or with `dim=0` columns) over a power of two near the largest size: nothing rounds.

    Squares and their products stay in the range of float64, whatever the unit.
    """
    largest = rows.abs().amax() if dim is None else rows.abs().amax(dim)
    exponent = torch.where(largest > 0, torch.frexp(largest)[1] - 1, 0)
    half = exponent // 2  # in two steps: the power itself may lie outside the range
    return torch.ldexp(torch.ldexp(rows, -half), half - exponent)


def power_of_two(rows: Tensor) -> Tensor:
    """() a power of two near the largest spread of a column: dividing by it rounds nothing."""
    spread = (rows - rows.mean(0)).abs().amax()
    exponent = torch.frexp(spread)[1]
    return torch.ldexp(torch.ones_like(spread), torch.where(spread > 0, exponent, 0))
