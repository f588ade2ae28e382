"""Merges what the ranks of a distributed run have measured."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ncfast import _ranks
from ncfast.distributed import all_reduce_many
from ncfast.moments import ClassMoments
from ncfast.ops.states import Layout, pack

LOCAL = "tracker/local"  # in a record of what this rank alone has measured
Batches = list[tuple[Layout, Tensor]]
Result = TypeVar("Result")


class RanksApart(ValueError, RuntimeError):
    """The ranks did not make the same calls, or one was lost; each has measured alone since."""


def as_group(group: Any) -> tuple[bool, dist.ProcessGroup | None]:
    """Whether to reduce, and over which group, None being the default one.

    Args:
        group: None (no reduction), "auto" (over all ranks, if there are several) or a group.

    Raises:
        ValueError: it is none of these.
    """
    if group is None:
        return False, None
    if group == "auto":
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        return several, None
    if dist.is_available() and isinstance(group, dist.ProcessGroup):
        return True, group
    raise ValueError(
        f"Expected argument `group` to be None, 'auto' or a process group but got {group!r}."
    )


class Ranks:
    """The other ranks, until something parts them from this one.

    A rank that has lost the others, or that finds them elsewhere, never calls a collective again:
    each measures alone, and training goes on.

    Args:
        group: the process group; None is the default one.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.alone = False
        self.error: Exception | None = None  # what has parted them
        self._group, self._warned, self._raised = group, False, False

    def merge(self, call: str, merge: Callable[[str], Result]) -> Result | None:
        """What ``merge(call)`` gives; None if this rank is alone, or now is."""
        if self.alone:
            return None
        self.alone = True  # also after an interrupt in the middle of a collective
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

    def batches(self, batches: Batches, call: str) -> Batches | None:
        """Packed moments (n, size) of several layers over all ranks; None if this one is alone."""
        if not batches and not dist.is_initialized():
            return None  # the group is gone, but nothing is lost
        return self.merge(call, lambda call: _reduce_batches(batches, self._group, call))

    def moments(self, moments: Sequence[ClassMoments], call: str) -> list[ClassMoments]:
        """The same moments over all ranks, in one collective."""
        return all_reduce_many(moments, self._group, call=call)

    def sums(self, values: Tensor, call: str) -> Tensor:
        """Sums over all ranks, (n,) float64."""
        return _ranks.gather(values, call, f"{len(values)} sums", self._group).sum(0)

    def warn(self, stacklevel: int) -> None:
        """Say once, if they have been parted, that training goes on alone."""
        if self.error is not None and not (self._warned or self._raised):
            self._warned = True
            warnings.warn(f"{self.error} {_ALONE}", RuntimeWarning, stacklevel=stacklevel + 1)

    def raise_error(self) -> None:
        """Raise, once, what has parted them."""
        if self.error is not None and not self._raised:
            self._raised = True
            raise RanksApart(f"{self.error} {_ALONE}") from self.error


_ALONE = (
    "From this block on the log holds what this rank measured by itself; these records say "
    f'"{LOCAL}": 1.'
)


def in_words(steps: Iterable[int]) -> str:
    """Log points as a text: "4 measured steps up to step 9 (1-3, 9)"."""
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


def _reduce_batches(batches: Batches, group: dist.ProcessGroup | None, call: str) -> Batches:
    moments = [layout.unpack(state) for layout, states in batches for state in states]
    merged = iter(all_reduce_many(moments, group, call=call))
    return [
        (layout, torch.stack([pack(next(merged)) for _ in states])) for layout, states in batches
    ]
