"""Two looks at a stream of batches: moments first, then what needs the final means.

The batches of a loader have features of one or more layers, each with an accumulator of its own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from ncfast.accumulator import Accumulator
from ncfast.metrics.catalogue import CATALOGUE
from ncfast.tracking.messages import user_level


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


Kind = TypeVar("Kind", bound=Accumulator)
Classifier = tuple[Tensor, Tensor | None]
_NO_CLASSIFIER = "needs a classifier"


def accumulators_of(
    classifiers: Mapping[str, Classifier | None],
    num_classes: int,
    metrics: str | Sequence[str],
    make: Callable[..., Kind],
    **options: Any,
) -> tuple[dict[str, Kind], dict[str, str]]:
    """An accumulator for each layer, and the keys that a layer without classifier cannot have.

    Args:
        classifiers: by layer, weight and bias, or None.
        num_classes: K.
        metrics: as for `Accumulator`.
        make: the class of the accumulators.
        **options: of `Accumulator`.
    """
    made: dict[str, Kind] = {}
    missing: dict[str, str] = {}
    by_name = [metrics] if isinstance(metrics, str) else list(metrics)
    for layer, classifier in classifiers.items():
        chosen: str | Sequence[str] = metrics
        if classifier is None and any(classifiers.values()):
            # asked for by name, and had by another layer
            out = [id_ for id_ in by_name if id_ in CATALOGUE and _reads_classifier(id_)]
            missing |= {f"{layer}/{id_}": _NO_CLASSIFIER for id_ in out}
            chosen = [id_ for id_ in by_name if id_ not in out] if out else metrics
        weight, bias = classifier if classifier is not None else (None, None)
        made[layer] = make(num_classes, metrics=chosen, weight=weight, bias=bias, **options)
    return made, missing


def _reads_classifier(id_: str) -> bool:
    return bool(CATALOGUE[id_].needs & {"classifier", "bias"})


Visit = Callable[[Batch], None]
Run = Callable[[Visit], None]


class Memory:
    """How many bytes of features may still be kept."""

    def __init__(self, limit: int | None) -> None:
        self.left: float = math.inf if limit is None else limit


class Kept:
    """A run over batches that comes from memory the second time, where the batches fit.

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
            self._keep(batch)

        self._run(visit_and_keep)

    def again(self, visit: Visit) -> None:
        """Visit every batch a second time."""
        if self._batches is None:
            self._run(visit)
        for batch in self._batches or ():
            visit(batch)

    def _keep(self, batch: Batch) -> None:
        if self._batches is None or self._memory is None:
            return
        self._memory.left -= _size(batch)
        if self._memory.left < 0:
            self._memory.left += sum(map(_size, [*self._batches, batch]))
            self._batches = None
            return
        # a copy: a view would keep the whole activation alive
        kept = {name: feats.clone() for name, feats in batch.feats.items()}
        self._batches.append(batch._replace(feats=kept))


def _size(batch: Batch) -> int:
    return sum(t.nbytes for t in (*batch.feats.values(), batch.labels, batch.mask) if t is not None)


def look_twice(
    accumulators: Mapping[str, Accumulator],
    inside: Kept,
    outside: Kept | None,
    reduce: Callable[[Mapping[str, Accumulator]], object] | None,
) -> None:
    """Update the accumulators with every batch, and revisit the batches where one needs that.

    Args:
        accumulators: by layer.
        inside: the batches of the data set.
        outside: the batches from outside the distribution.
        reduce: merges accumulators with those of the other ranks; None for a single process.
    """
    inside.first(lambda batch: _update(accumulators, batch))
    if outside is not None:
        outside.first(lambda batch: _update(accumulators, batch))
    if reduce is not None:
        reduce(accumulators)
    waiting = {name: acc for name, acc in accumulators.items() if acc.needs_revisit}
    if not waiting:
        return
    if not (inside.can_repeat and (outside is None or outside.can_repeat)):
        warnings.warn(_CANNOT_REPEAT, RuntimeWarning, stacklevel=user_level())
        return
    inside.again(lambda batch: _revisit(waiting, batch))
    if outside is not None:
        outside.again(lambda batch: _revisit(waiting, batch))
    if reduce is not None:
        reduce(waiting)


_CANNOT_REPEAT = (
    "The loader is an iterator that cannot be read twice, and its features exceed `memory_limit`: "
    "the metrics that need a second look, such as nc4.*, are left out. Pass a DataLoader or a "
    "list, or raise memory_limit."
)


def repeatable(loader: Iterable[Any]) -> bool:
    """Whether the batches can be read a second time: not those of an iterator."""
    return not isinstance(loader, Iterator)


def _update(accumulators: Mapping[str, Accumulator], batch: Batch) -> None:
    for name, feats in batch.feats.items():
        if batch.labels is None:
            accumulators[name].update_ood(feats)
        else:
            accumulators[name].update(feats, batch.labels, mask=batch.mask)


def _revisit(accumulators: Mapping[str, Accumulator], batch: Batch) -> None:
    for name, accumulator in accumulators.items():
        if name not in batch.feats:
            continue
        if batch.labels is None:
            accumulator.revisit_ood(batch.feats[name])
        else:
            accumulator.revisit(batch.feats[name], batch.labels, mask=batch.mask)
