"""Merges the measurements of the ranks of a distributed run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ncfast import _ranks
from ncfast._warnings import user_level
from ncfast.accumulator import Accumulator
from ncfast.distributed import all_reduce_many
from ncfast.moments import ClassMoments
from ncfast.ops.states import Layout, pack
from ncfast.tracking.keys import LOCAL

Result = TypeVar("Result")


class RanksApart(ValueError, RuntimeError):
    """The ranks made different calls, or one was lost; since then each rank measures alone."""


class Ranks:
    """The ranks of a run, which merge their measurements while all of them make the same calls.

    If a rank is lost or makes another call than the others, each rank measures alone from then on:
    it calls no collective again, and training goes on.

    Args:
        group: the process group; None is the default one.

    Attributes:
        alone: whether this rank measures alone.
        error: the exception that parted the ranks, or None.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.alone = False
        self.error: Exception | None = None
        self._group, self._warned, self._raised = group, False, False

    def merge(self, call: str, merge: Callable[[str], Result]) -> Result | None:
        """The result of ``merge(call)``; None if this rank is alone, or is from this call on.

        Args:
            call: the call that this rank makes, for the message if the others make another.
            merge: merges with the other ranks, which make the same call.
        """
        if self.alone:
            return None
        self.alone = True  # remains so after an interrupt in the middle of a collective
        try:
            if not dist.is_initialized():
                raise RuntimeError(
                    "The process group was destroyed before the tracker was closed. Close the "
                    f"tracker before dist.destroy_process_group(). This rank came with {call}."
                )
            found = merge(call)
        except Exception as error:
            self.error = error
            return None
        self.alone = False
        return found

    def batches(
        self,
        layouts: Sequence[Layout],
        states: Sequence[Tensor],
        call: str,
        numbers: Sequence[Tensor] = (),
    ) -> list[Tensor] | None:
        """Packed moments of several layers over all ranks; None if this rank is alone.

        Args:
            layouts: the layout of the rows of each tensor.
            states: the packed moments (n, size), one tensor for each layer and split.
            call: see `merge`.
            numbers: (n,) whole numbers to add up, such as the numbers of rows that were left out.

        Returns:
            The merged states, then the sums of the numbers.
        """
        if not states and not dist.is_initialized():
            return None  # the group is gone, but there is nothing to merge
        return self.merge(call, lambda call: self._reduce(layouts, states, call, numbers))

    def _reduce(
        self,
        layouts: Sequence[Layout],
        states: Sequence[Tensor],
        call: str,
        numbers: Sequence[Tensor],
    ) -> list[Tensor]:
        pairs = zip(layouts, states, strict=True)
        parts = [ClassMoments(*layout.split(row)) for layout, rows in pairs for row in rows]
        # one collective for all: numbers are counts of classes without features
        parts += [_as_counts(number) for number in numbers]
        merged = iter(all_reduce_many(parts, self._group, call=call))
        found = [torch.stack([pack(next(merged)) for _ in rows]) for rows in states]
        return [*found, *(next(merged).counts.to(torch.float64) for _ in numbers)]

    def accumulate(self, accumulator: Accumulator) -> None:
        """Merge an accumulator with those of the other ranks, in place."""
        accumulator.all_reduce(self._group)

    def sums(self, values: Tensor, call: str) -> Tensor:
        """The sums of ``values`` over all ranks, (n,) float64."""
        return _ranks.gather(values, call, f"{len(values)} sums", self._group).sum(0)

    def warn(self) -> None:
        """Warn once if this rank has begun to measure alone."""
        if self.error is not None and not (self._warned or self._raised):
            self._warned = True
            warnings.warn(f"{self.error} {_ALONE}", RuntimeWarning, stacklevel=user_level())

    def raise_error(self) -> None:
        """Raise `RanksApart` once if this rank measures alone."""
        if self.error is not None and not self._raised:
            self._raised = True
            raise RanksApart(f"{self.error} {_ALONE}") from self.error


_ALONE = (
    "From this block on the log has the measurements of this rank alone; its records have "
    f'"{LOCAL}": 1.'
)


def _as_counts(numbers: Tensor) -> ClassMoments:
    zeros = numbers.new_zeros((len(numbers), 1))
    return ClassMoments(numbers.to(torch.int64), zeros, zeros[:, 0], zeros.sum(), zeros.sum())


def describe_steps(steps: Iterable[int]) -> str:
    """A text for some steps, such as "4 measured steps up to step 9 (1-3, 9)"."""
    found = sorted(steps)
    if not found:
        return "no measured step"
    runs: list[list[int]] = []
    for step in found:
        if runs and step == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], step]
        else:
            runs.append([step])
    spans = ", ".join("-".join(map(str, run)) for run in runs)
    return f"{len(found)} measured step{'s' * (len(found) > 1)} up to step {found[-1]} ({spans})"
