"""Transformations of columns that keep mutual information and make estimates more accurate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from ncfast.information.samples import check_choice

Preprocess = Literal["standardize", "rank"] | None


def standardize(rows: Tensor) -> Tensor:
    """(N, d) columns with mean zero and standard deviation one; constant columns become zero.

    Columns are first scaled to a common size, so that their squares stay in the range of float64.
    """
    rows = in_range(rows, dim=0)
    spread = standard_deviations(rows)
    return torch.where(spread > 0, (rows - rows.mean(0)) / spread, 0.0)


def standard_deviations(rows: Tensor) -> Tensor:
    """(d,) standard deviations of the columns, exactly zero for constant ones."""
    # The deviations of a constant column are the rounding error of its mean, not a spread.
    noise = 8 * torch.finfo(rows.dtype).eps * rows.abs().amax(0)
    spread = (rows - rows.mean(0)).square().mean(0).sqrt()
    return torch.where(spread > noise, spread, 0.0)


def normal_scores(rows: Tensor) -> Tensor:
    """(N, d) Gaussian quantiles of the ranks in each column; ties share their mean rank."""
    ordered, order = rows.sort(0)
    count = len(rows)
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    place = torch.arange(count, device=rows.device).unsqueeze(1)
    start = torch.where(first, place, 0).cummax(0).values
    last = torch.cat((first[1:], torch.ones_like(first[:1])))
    end = torch.where(last, place, count).flip(0).cummin(0).values.flip(0)
    ranks = (start + end).to(rows.dtype) / 2 + 1
    return scores_of_ranks(torch.empty_like(rows).scatter_(0, order, ranks), count)


def scores_of_ranks(ranks: Tensor, count: int) -> Tensor:
    """Gaussian quantiles of ranks in 1..`count`."""
    return torch.special.ndtri(ranks / (count + 1))


def transform(rows: Tensor, preprocess: Preprocess) -> Tensor:
    """Apply the transformation that `preprocess` names.

    Raises:
        ValueError: `preprocess` is unknown.
    """
    check_choice("preprocess", preprocess, ("standardize", "rank", None))
    if preprocess == "standardize":
        return standardize(rows)
    return normal_scores(rows) if preprocess == "rank" else rows


def common_unit(blocks: Sequence[Tensor]) -> list[Tensor]:
    """Blocks divided by one power of two, so that distances stay in the range of float64."""
    unit = torch.stack([power_of_two(rows) for rows in blocks]).amax()
    return [rows / unit for rows in blocks]


def by_class(function: Callable[[Tensor], Tensor], rows: Tensor, classes: Tensor) -> Tensor:
    """Apply `function` to the rows of each class separately."""
    order = classes.argsort(stable=True)
    sizes = torch.bincount(classes).tolist()
    parts = [function(part) for part in rows[order].split(sizes) if len(part)]
    out = torch.empty_like(rows)
    out[order] = torch.cat(parts)
    return out


def in_range(rows: Tensor, dim: int | None = None) -> Tensor:
    """Rows divided by a power of two near the largest magnitude, of each column with `dim=0`.

    The division is exact. Squares and their products then stay in the range of float64.
    """
    largest = rows.abs().amax() if dim is None else rows.abs().amax(dim)
    exponent = torch.where(largest > 0, torch.frexp(largest)[1] - 1, 0)
    half = exponent // 2  # two steps, because the power itself may be out of range
    return torch.ldexp(torch.ldexp(rows, -half), half - exponent)


def power_of_two(rows: Tensor) -> Tensor:
    """() a power of two near the largest spread of a column; division by it is exact."""
    spread = (rows - rows.mean(0)).abs().amax()
    exponent = torch.frexp(spread)[1].clamp(-1021, 1023)
    return torch.ldexp(torch.ones_like(spread), torch.where(spread > 0, exponent, 0))
