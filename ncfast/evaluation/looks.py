"""Reads batches once for the moments, and again for metrics that need the final means."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ncfast._warnings import user_level
from ncfast.accumulator import Accumulator
from ncfast.evaluation.group import Group


class Batch(NamedTuple):
    """One batch of every layer.

    Attributes:
        feats: features by layer, (N, D) or (B, T, D).
        labels: (N,) or (B, T); None outside the distribution.
        mask: of the shape of the labels; False leaves a row out.
    """

    feats: Mapping[str, Tensor]
    labels: Tensor | None
    mask: Tensor | None = None


Visit = Callable[[Batch], None]
Run = Callable[[Visit], None]


class Memory:
    """The number of bytes that kept features may still take."""

    def __init__(self, limit: int | None) -> None:
        self.left: float = math.inf if limit is None else limit


class Kept:
    """A pass over batches that can be made twice: from memory the second time, if they fit.

    Args:
        run: calls its argument with every batch.
        memory: shared with other runs; None keeps nothing.
        repeatable: whether ``run`` can be called again.
    """

    def __init__(self, run: Run, memory: Memory | None = None, *, repeatable: bool = True) -> None:
        self._run, self._memory, self._repeatable = run, memory, repeatable
        self._batches: list[Batch] | None = None if memory is None else []

    @property
    def can_repeat(self) -> bool:
        """Whether a second call is possible."""
        return self._repeatable or self._batches is not None

    def first(self, visit: Visit) -> None:
        """Visit every batch and keep it while there is memory."""

        def visit_and_keep(batch: Batch) -> None:
            visit(batch)
            self.keep(batch)

        self._run(visit_and_keep)

    def again(self, visit: Visit) -> None:
        """Visit every batch a second time."""
        if self._batches is None:
            self._run(visit)
        for batch in self._batches or ():
            visit(batch)

    def keep(self, batch: Batch) -> None:
        """Keep a batch for the second visit, or drop all of them where there is no memory."""
        if self._batches is None or self._memory is None:
            return
        self._memory.left -= _size(batch)
        if self._memory.left < 0:
            self._memory.left += sum(map(_size, [*self._batches, batch]))
            self._batches = None
            return
        # copies: a view would keep the whole activation alive, and some loaders refill a tensor
        feats = {name: found.clone() for name, found in batch.feats.items()}
        rest = (None if part is None else part.clone() for part in (batch.labels, batch.mask))
        self._batches.append(Batch(feats, *rest))


def can_reread(batches: Iterable[Any]) -> bool:
    """Whether batches can be read a second time: not those of an iterator."""
    return not isinstance(batches, Iterator)


def _size(batch: Batch) -> int:
    return sum(t.nbytes for t in (*batch.feats.values(), batch.labels, batch.mask) if t is not None)


def first_look(accumulators: Mapping[str, Accumulator], passes: Sequence[Kept]) -> None:
    """Update the accumulators, by layer, with every batch."""
    for batches in passes:
        batches.first(lambda batch: _update(accumulators, batch))


def second_look(
    accumulators: Mapping[str, Accumulator], passes: Sequence[Kept], group: Group
) -> None:
    """Merge the accumulators of all ranks; revisit every batch where a metric needs that."""
    group.reduce(accumulators.values())
    waiting = {name: acc for name, acc in accumulators.items() if acc.needs_revisit}
    if not waiting:
        return
    if not group.all(all(batches.can_repeat for batches in passes)):
        warnings.warn(CANNOT_REPEAT, RuntimeWarning, stacklevel=user_level())
        return
    for batches in passes:
        batches.again(lambda batch: revisit(waiting, batch))
    group.reduce(waiting.values())


CANNOT_REPEAT = (
    "The batches come from an iterator that cannot be read twice, and their features exceed "
    "`memory_limit`: the metrics that need a second look, such as nc4.*, are left out. Pass a "
    "DataLoader or a list, or raise memory_limit."
)


def _update(accumulators: Mapping[str, Accumulator], batch: Batch) -> None:
    for name, feats in batch.feats.items():
        if batch.labels is None:
            accumulators[name].update_ood(feats)
        else:
            accumulators[name].update(feats, batch.labels, mask=batch.mask)


def revisit(accumulators: Mapping[str, Accumulator], batch: Batch) -> None:
    """Show a batch again to those accumulators that have its layers."""
    for name, accumulator in accumulators.items():
        feats = batch.feats.get(name)
        if feats is not None and batch.labels is None:
            accumulator.revisit_ood(feats)
        elif feats is not None and batch.labels is not None:
            accumulator.revisit(feats, batch.labels, mask=batch.mask)
