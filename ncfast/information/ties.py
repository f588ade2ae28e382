"""Equal values in a neighbour estimate: counted where rows repeat often, parted elsewhere.

A row that occurs more than k times gets a term of its multiplicities. Every other row gets a term
of neighbours, found after independent noise far below the smallest gap between values. The noise
decides at random which of several equally distant rows is nearest, without the bias of counting all
of them or none. For a row that occurs often, the expectation of the neighbour term over the noise
is the term of its multiplicities. Without equal values no noise is drawn.
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

SHARE = 1e-3  # size of the noise over the smallest gap between two values of the column
LEAST = 4  # and at least so many units in the last place of the largest value
_ODD = 0x5851F42D4C957F2D


class Cells(NamedTuple):
    """Numbers of the distinct rows, (N,) int64: of (x, y, z), z, (x, z) and (y, z)."""

    whole: Tensor
    given: Tensor
    left: Tensor
    right: Tensor


class Noise(NamedTuple):
    """Noise in -1..1 for the columns that hold equal values."""

    columns: Tensor  # (r,) their numbers
    values: Tensor  # (N, r)


class Found(NamedTuple):
    """Terms of an estimate, (N,), the engine and the method that was used."""

    terms: Tensor
    backend: str
    method: str


@dataclass(frozen=True)
class Sample:
    """Blocks of columns after their transformation, which row subsets undergo again.

    Attributes:
        blocks: (N, d) each, transformed.
        preprocess: the transformation of the columns.
        cells: what equal rows are counted by; None without equal rows, or where they do not matter.
        noise: for each block; empty without equal values.
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
    """A sample whose equal values are counted or parted.

    Args:
        raw: (N, d) blocks x, y and perhaps z as they came.
        blocks: the same after the transformation.
        preprocess: the transformation.
        generator: of the noise, on the device of the rows; None takes a private one.
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
    """Terms of multiplicities where more than k rows are equal, terms of neighbours elsewhere.

    psi(m) + psi(m_z) - psi(m_xz) - psi(m_yz), with N for m_z where there is no z.

    Args:
        cells: see `Sample`.
        rows: the subset of the samples; None means all.
        k: neighbours.
        search: the terms of neighbours, and the engine.
    """
    if cells is None:
        return Found(*search(), "ksg")
    whole, given, left, right = (_multiplicity(each, rows) for each in cells)
    many = whole > k
    counted = psi(whole) + psi(given) - (psi(left) + psi(right))  # symmetric to the bit
    if bool(many.all()) or _determined(given, left, k) or _determined(given, right, k):
        return Found(counted, "", "counts")
    terms, backend = search()
    if not bool(many.any()):
        return Found(terms, backend, "ksg")
    return Found(torch.where(many, counted, terms), backend, "ksg+counts")


def copied(cells: Cells, k: int) -> int:
    """Rows that occur at most k times, but whose parts occur nowhere without the rest."""
    whole, _, left, right = (_multiplicity(each, None) for each in cells)
    return int(((whole > 1) & (whole <= k) & (whole == left) & (whole == right)).sum())


def mostly_counted(cells: Cells | None, k: int) -> bool:
    """Whether three quarters of the rows occur more than k times."""
    if cells is None:
        return False
    many = _multiplicity(cells.whole, None) > k
    return 4 * int(many.sum()) >= 3 * len(many)


def _determined(given: Tensor, both: Tensor, k: int) -> bool:
    """Whether a block is a function of what is given, such as a constant: it shares nothing."""
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
    """(d,) whether a column holds equal values, and whether it holds different ones."""
    ordered = rows.sort(0).values
    return (ordered[1:] == ordered[:-1]).any(0), ordered[0] != ordered[-1]


def _draw(
    raw: Sequence[Tensor], columns: Sequence[Tensor], generator: torch.Generator | None
) -> tuple[Noise, ...]:
    """One draw for all blocks, the same whichever of x and y comes first and in any row order."""
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
    """(N, d) numbers of the distinct values of each column: the same in any unit."""
    columns = [torch.unique(column, return_inverse=True)[1] for column in rows.T]
    return torch.stack(columns, 1).to(torch.float64)


def _checksum(codes: Tensor) -> tuple[int, int]:
    """Of a block: first one that ignores the order of the rows, then one that does not."""
    place = 2 * torch.arange(len(codes), device=codes.device) + 1
    return int(codes.sum()), int((codes * place).sum())


def _separate(rows: Tensor, noise: Noise) -> Tensor:
    """Rows with noise of a thousandth of the smallest gap in the columns with equal values."""
    if not len(noise.columns):
        return rows
    part = rows[:, noise.columns]
    ordered = part.sort(0).values
    part = part - ordered[len(rows) // 2]  # the noise would drown in the rounding of a large mean
    gaps = ordered.diff(dim=0)
    gap = torch.where(gaps > 0, gaps, torch.inf).amin(0)
    least = LEAST * torch.finfo(rows.dtype).eps * part.abs().amax(0)
    size = torch.where(gap.isfinite(), torch.maximum(SHARE * gap, least), 0.0)
    return rows.index_copy(1, noise.columns, part + size * noise.values)
