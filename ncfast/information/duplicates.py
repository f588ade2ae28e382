"""Finds equal rows, and leaves, drops, separates or refuses them as the policy says.

A continuous distribution has no equal rows. Their distance of zero distorts estimates by nearest
neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ncfast.information.samples import check_choice

Duplicates = Literal["warn", "drop", "jitter", "error"]
PairDuplicates = Literal["auto"] | Duplicates
_STREAM = 0x3C6EF372FE94F82B
_ODD = 0x5851F42D4C957F2D  # distributes group numbers over all bits
JITTER = 1e-10  # standard deviation of the noise over that of the column


def private_generator(device: torch.device, seed: int = 0) -> torch.Generator:
    """A generator of its own with a fixed seed, which leaves the global random stream alone.

    Its stream differs from that of `manual_seed(seed)`. With the same stream, data that a user drew
    with that seed would equal the noise.
    """
    return torch.Generator(device=device).manual_seed(_STREAM + seed)


def row_codes(rows: Tensor) -> Tensor:
    """(N,) int64 hash of each row's bits; equal rows have equal codes.

    The hash is a sum of integers, which wraps around and does not depend on the order of summation.
    Two different rows have the same code with probability 2^-64.
    """
    bits = (rows + 0.0).view(torch.int64)  # adding zero makes -0.0 the same as 0.0
    low, high = -(1 << 62), 1 << 62
    generator = private_generator(torch.device("cpu"))
    weights = torch.randint(low, high, (rows.shape[1],), generator=generator, device="cpu") | 1
    mixed = bits ^ (bits >> 29)  # the low bits of round numbers are all zero
    return (mixed * weights.to(rows.device)).sum(1)


def count_duplicates(rows: Tensor) -> int:
    """Number of rows minus number of distinct rows."""
    ordered = row_codes(rows).sort().values
    return int((ordered[1:] == ordered[:-1]).sum())


def multiplicity(rows: Tensor, groups: Tensor | None = None) -> Tensor:
    """(N,) int64: the number of rows (of the same group) equal to each row, itself included."""
    codes = row_codes(rows)
    if groups is not None:
        codes = codes + groups * _ODD
    _, inverse, counts = torch.unique(codes, return_inverse=True, return_counts=True)
    return counts[inverse]


def resolve(
    rows: Tensor, policy: Duplicates, generator: torch.Generator | None = None
) -> tuple[Tensor, int]:
    """Apply the policy for duplicates to the rows.

    Args:
        rows: (N, d) float64.
        policy: "warn" leaves equal rows, "drop" keeps the first of them, "jitter" adds Gaussian
            noise of 1e-10 standard deviations to every column, "error" refuses them.
        generator: source of the noise for "jitter"; None takes a private one with a fixed seed.

    Returns:
        The rows to use, (M, d), and the number of rows minus that of distinct rows.

    Raises:
        ValueError: the policy is unknown, or rows are equal and the policy is "error".
    """
    check_choice("duplicates", policy, ("warn", "drop", "jitter", "error"))
    (rows,), found = _resolve([rows], policy, generator, "duplicates='drop' or 'jitter'")
    return rows, found


def resolve_blocks(
    blocks: Sequence[Tensor], policy: PairDuplicates, generator: torch.Generator | None = None
) -> tuple[list[Tensor], int]:
    """`resolve` for rows that span several blocks; "auto" leaves them as they are.

    "jitter" draws the noise of all blocks from one generator, independently for each column.
    """
    check_choice("duplicates", policy, ("auto", "warn", "drop", "jitter", "error"))
    if policy == "auto":
        return list(blocks), 0
    return _resolve(blocks, policy, generator, "duplicates='auto', 'drop' or 'jitter'")


def _resolve(
    blocks: Sequence[Tensor], policy: Duplicates, generator: torch.Generator | None, remedy: str
) -> tuple[list[Tensor], int]:
    rows = torch.cat(tuple(blocks), 1)
    found = count_duplicates(rows)
    if policy == "error" and found:
        raise ValueError(
            f"Expected distinct rows but {found} of {len(rows)} repeat another one. Pass {remedy}."
        )
    if policy == "drop" and found:
        rows = rows[_first_of_each(rows)]
    if policy == "jitter":
        rows = jitter(rows, generator)
    return list(rows.split([block.shape[1] for block in blocks], 1)), found


def _first_of_each(rows: Tensor) -> Tensor:
    codes, order = row_codes(rows).sort(stable=True)
    first = torch.ones_like(codes, dtype=torch.bool)
    first[1:] = codes[1:] != codes[:-1]
    return order[first].sort().values


def jitter(rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The centred rows plus Gaussian noise of `JITTER` standard deviations of each column."""
    if generator is None:
        generator = private_generator(rows.device)
    centred = rows - rows.mean(0)  # the rounding of a large mean would exceed the noise
    noise = torch.randn(rows.shape, dtype=rows.dtype, device=rows.device, generator=generator)
    return centred + JITTER * centred.square().mean(0).sqrt() * noise
