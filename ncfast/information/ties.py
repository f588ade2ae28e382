"""Handles equal values in estimates by neighbours: counts frequent rows, separates other values.

The term of a row that occurs more than k times is computed from its multiplicities. The term of any
other row is computed from neighbours, after noise has separated equal values. The noise is
independent and far smaller than the smallest gap between values. It selects at random which of
several equally distant rows is nearest, and so avoids the bias of counting all or none of them. For
a frequent row, the expectation of the neighbour term over the noise equals the term of its
multiplicities. Without equal values no noise is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast.information.caveats import psi
from ncfast.information.duplicates import private_generator, row_codes
from ncfast.information.preprocess import Preprocess, transform

SHARE = 1e-3  # size of the noise relative to the smallest gap between values of the column
LEAST = 4  # least size of the noise in units in the last place of the largest value
_ODD = 0x5851F42D4C957F2D


class Cells(NamedTuple):
    """(N,) int64 numbers that are equal for equal rows of (x, y, z), z, (x, z) and (y, z)."""

    whole: Tensor
    given: Tensor
    left: Tensor
    right: Tensor


class Noise(NamedTuple):
    """Noise in [-1, 1] for the columns that hold equal values."""

    columns: Tensor  # (r,) numbers of these columns
    values: Tensor  # (N, r)


class Found(NamedTuple):
    """(N,) terms of an estimate, the engine of the search, and the method used."""

    terms: Tensor
    backend: str
    method: str


@dataclass(frozen=True)
class Sample:
    """Transformed blocks of columns. Subsets of the rows are transformed again.

    Attributes:
        blocks: (N, d) each, transformed.
        preprocess: the transformation of the columns.
        cells: numbers of equal rows; None without equal values or if the method ignores them.
        noise: noise for each block; empty without equal values.
    """

    blocks: tuple[Tensor, ...]
    preprocess: Preprocess
    cells: Cells | None = None
    noise: tuple[Noise, ...] = ()

    def at(self, rows: Tensor | None) -> list[Tensor]:
        """The blocks of some rows, ready for a neighbour search; None means all rows."""
        blocks = list(self.blocks)
        if rows is not None:
            blocks = [transform(block[rows], self.preprocess) for block in blocks]
        if not self.noise:
            return blocks
        return [
            _separate(block, noise if rows is None else Noise(noise.columns, noise.values[rows]))
            for block, noise in zip(blocks, self.noise, strict=True)
        ]


def counted_sample(
    raw: Sequence[Tensor],
    blocks: Sequence[Tensor],
    preprocess: Preprocess,
    generator: torch.Generator | None,
) -> Sample:
    """A sample with numbers for equal rows, and noise that separates equal values.

    Args:
        raw: (N, d) blocks x, y and perhaps z before the transformation.
        blocks: the blocks after the transformation.
        preprocess: the transformation.
        generator: source of the noise, on the device of the rows; None takes a private one.
    """
    found = [_repeating(rows) for rows in raw]
    if not any(bool(repeated.any()) for repeated, _ in found):
        return Sample(tuple(blocks), preprocess)
    columns = [(repeated & varies).nonzero().squeeze(1) for repeated, varies in found]
    noise = _draw(raw, columns, generator)
    return Sample(tuple(blocks), preprocess, _cells(raw), noise)


def by_point(
    cells: Cells | None, rows: Tensor | None, k: int, search: Callable[[], tuple[Tensor, str]]
) -> Found:
    """Terms from multiplicities for rows that occur more than k times, from neighbours for others.

    The former are psi(m) + psi(m_z) - psi(m_xz) - psi(m_yz). Without z, m_z is N.

    Args:
        cells: see `Sample`.
        rows: the subset of the samples; None means all.
        k: number of neighbours.
        search: computes the terms from neighbours, and returns them with the engine's name.
    """
    if cells is None:
        return Found(*search(), "ksg")
    whole, given, left, right = (_multiplicity(each, rows) for each in cells)
    many = whole > k
    counted = psi(whole) + psi(given) - (psi(left) + psi(right))  # this order is symmetric in x, y
    if bool(many.all()) or _determined(given, left, k) or _determined(given, right, k):
        return Found(counted, "", "counts")
    terms, backend = search()
    if not bool(many.any()):
        return Found(terms, backend, "ksg")
    return Found(torch.where(many, counted, terms), backend, "ksg+counts")


def copied(cells: Cells, k: int) -> int:
    """Number of rows that occur 2 to k times and whose x and y never occur in another row."""
    whole, _, left, right = (_multiplicity(each, None) for each in cells)
    return int(((whole > 1) & (whole <= k) & (whole == left) & (whole == right)).sum())


def mostly_counted(cells: Cells | None, k: int) -> bool:
    """Whether at least three quarters of the rows occur more than k times."""
    if cells is None:
        return False
    many = _multiplicity(cells.whole, None) > k
    return 4 * int(many.sum()) >= 3 * len(many)


def _determined(given: Tensor, both: Tensor, k: int) -> bool:
    """Whether z determines a block, as it does a constant. Such a block shares no information."""
    return bool((both == given).all()) and int(given.min()) > k


def _multiplicity(cell: Tensor, rows: Tensor | None) -> Tensor:
    cell = cell if rows is None else cell[rows]
    return torch.bincount(cell)[cell]


def _cells(raw: Sequence[Tensor]) -> Cells:
    x, y = raw[0], raw[1]
    given = list(raw[2:])
    none = torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def number(*blocks: Tensor) -> Tensor:
        return torch.unique(row_codes(torch.cat(blocks, 1)), return_inverse=True)[1]

    z = number(*given) if given else none
    return Cells(number(x, y, *given), z, number(x, *given), number(y, *given))


def _repeating(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(d,) each: whether a column holds equal values, and whether it holds different values."""
    ordered = rows.sort(0).values
    return (ordered[1:] == ordered[:-1]).any(0), ordered[0] != ordered[-1]


def _draw(
    raw: Sequence[Tensor], columns: Sequence[Tensor], generator: torch.Generator | None
) -> tuple[Noise, ...]:
    """Noise for all blocks. It does not depend on the order of x and y, or of the rows."""
    codes = [row_codes(_dense_ranks(rows)) for rows in raw]
    order = sorted(range(2), key=lambda block: _checksum(codes[block])) + list(range(2, len(raw)))
    mixed = codes[order[0]]
    for block in order[1:]:
        mixed = mixed * _ODD + codes[block]
    rows = mixed.argsort(stable=True)  # equal rows may swap their noise
    if generator is None:
        generator = private_generator(raw[0].device)
    noise = {}
    for block in order:
        shape = (len(rows), len(columns[block]))
        drawn = torch.rand(shape, generator=generator, dtype=raw[0].dtype, device=raw[0].device)
        values = torch.empty_like(drawn)
        values[rows] = 2 * drawn - 1
        noise[block] = Noise(columns[block], values)
    return tuple(noise[block] for block in range(len(raw)))


def _dense_ranks(rows: Tensor) -> Tensor:
    """(N, d) ranks of the distinct values of each column, independent of its scale."""
    columns = [torch.unique(column, return_inverse=True)[1] for column in rows.T]
    return torch.stack(columns, 1).to(torch.float64)


def _checksum(codes: Tensor) -> tuple[int, int]:
    """Two checksums of a block: the first ignores the order of the rows, the second does not."""
    place = 2 * torch.arange(len(codes), device=codes.device) + 1
    return int(codes.sum()), int((codes * place).sum())


def _separate(rows: Tensor, noise: Noise) -> Tensor:
    """Rows plus noise, of `SHARE` times the smallest gap, in the columns with equal values."""
    if not len(noise.columns):
        return rows
    part = rows[:, noise.columns]
    ordered = part.sort(0).values
    part = part - ordered[len(rows) // 2]  # the rounding of a large mean would exceed the noise
    gaps = ordered.diff(dim=0)
    gap = torch.where(gaps > 0, gaps, torch.inf).amin(0)
    least = LEAST * torch.finfo(rows.dtype).eps * part.abs().amax(0)
    size = torch.where(gap.isfinite(), torch.maximum(SHARE * gap, least), 0.0)
    return rows.index_copy(1, noise.columns, part + size * noise.values)
