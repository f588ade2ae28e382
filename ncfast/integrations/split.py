"""`Split` measures a data split while another framework runs the model over it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ncfast._validate import with_float64
from ncfast.accumulator import Accumulator
from ncfast.evaluation.looks import Batch, Kept, Memory, revisit
from ncfast.evaluation.samplers import OwnRows
from ncfast.features.classifier import classifier_of
from ncfast.metrics.catalogue import CATALOGUE
from ncfast.ops._raw import as_int64
from ncfast.tracking.keys import IGNORED
from ncfast.tracking.reduction import Ranks
from ncfast.tracking.tracker import Tracker

MEMORY = 2 << 30  # bytes of features kept for a second look, and of a D x D matrix


class Split:
    """The accumulators of a split whose batches come one by one; no batch raises.

    If the features of a layer cannot be measured in some batch, or labels are no class indices, the
    metrics of the split are NaN. A layer without features for the labels is left out. Both give one
    warning. Metrics that read the features a second time keep them, up to 2 GiB.

    Args:
        tracker: the tracker of the model, with its layers, metrics and classifiers.
        loader: where the batches come from. Rows that a sampler has repeated, to give all ranks
            equal numbers, are not counted.

    Attributes:
        moments: the accumulators by layer.
        skipped, errors, repeated, empty: as in `Snapshot`; the warnings are given at once.
    """

    skipped, empty = 0, False

    def __init__(self, tracker: Tracker, loader: Any = None) -> None:
        assert tracker._capture is not None
        self.moments: dict[str, Accumulator] = {}
        self.errors: dict[str, Exception] = {}
        self.repeated: dict[str, int] = {}
        self._tracker, self._capture = tracker, tracker._capture
        self._ignore_index, self._own = tracker._ignore_index, OwnRows(loader)
        self._spoiled: set[str] = set()
        self._kept = Kept(_nothing, Memory(MEMORY), repeatable=False)
        self._looked = False
        self._batches = self._scored = 0
        self._scores = torch.zeros(2, dtype=torch.float64)  # correct, counted

    def begin(self) -> None:
        """Call before the model runs over a batch."""
        self._capture.enabled = True
        self._capture.take()

    def add(self, labels: Any, logits: Any = None, mask: Tensor | None = None) -> None:
        """Measure a batch that the model has run over.

        Args:
            labels: (N,) integer class indices, or (B, T) of tokens; None if there are none, of
                which the caller has warned.
            logits: (N, K) or (B, T, K), for the accuracy; anything else gives none.
            mask: of the labels' shape; rows where it is zero are left out.
        """
        start = time.perf_counter()
        found, wrong = self._capture.take()
        size = next(
            (len(x) for x in (labels, *found.values()) if isinstance(x, Tensor) and x.ndim), 0
        )
        rows = self._own.of(size)
        labels = labels[:rows] if isinstance(labels, Tensor) else labels
        mask = mask if mask is None else mask[:rows]
        for layer, feats in found.items():
            try:
                self._update(layer, feats[:rows], labels, mask)
            except Exception as error:  # noqa: PERF203  (of a batch, not of the training)
                wrong[layer] = error
        self._miss(wrong if labels is not None else dict.fromkeys(found))
        self._batches += 1
        if _are_scores(logits, labels, rows, self._tracker.num_classes):
            self._score(logits[:rows].detach(), labels, mask)
        self._tracker._recorder.seconds += time.perf_counter() - start

    def end(self, name: str) -> None:
        """Add the split to the current step's record, as ``name/...``."""
        self._tracker._plan_next()
        if self.moments:
            # Lightning runs validations in inference mode, whose tensors cannot be changed later
            snapshot: Any = self
            with torch.inference_mode(False):
                self._tracker._end_snapshot(name, snapshot)

    def spoil(self) -> None:
        """Make everything NaN: a batch is missing."""
        self._miss(dict.fromkeys(self.moments))
        self._scores = self._scores * torch.nan

    def all_reduce(self, ranks: Ranks, call: str) -> int:
        """Merge with the splits of the other ranks; an exception leaves this one unchanged.

        Returns:
            The number of batches over all ranks.
        """
        layers = list(self.moments)
        spoiled = [float(layer in self._spoiled) for layer in layers]
        flags = [self._batches, self._scored, not self._kept.can_repeat, *spoiled]
        sums = torch.cat([torch.tensor(flags, dtype=torch.float64), self._scores.cpu()])
        device = next(iter(self.moments.values()))._home or torch.device("cpu")
        sums = ranks.sums(sums.to(device), f"{call} with {', '.join(layers)}").cpu()
        merged = {layer: copy.copy(part) for layer, part in self.moments.items()}
        for part in merged.values():
            ranks.accumulate(part)
        if not sums[2]:
            self._look(merged)
            for part in merged.values():
                if part.needs_revisit:
                    ranks.accumulate(part)
        self.moments, self._looked, self._scores = merged, True, sums[-2:]
        self._batches, self._scored = int(sums[0]), int(sums[1])
        self._spoiled = {layer for layer, flag in zip(layers, sums[3:], strict=False) if flag}
        return self._batches

    def values(self, ids: Sequence[str], prefix: Callable[[str], str]) -> dict[str, Tensor]:
        """The values for the record by key, 0-d tensors.

        Args:
            ids: ignored; each accumulator knows its own.
            prefix: maps a layer to the first part of its keys, and "" to that of the accuracy.
        """
        if not self._looked:
            self._look(self.moments)
        found: dict[str, Tensor] = {}
        for layer, accumulator in self.moments.items():
            metrics = self._metrics(accumulator)
            if layer in self._spoiled:
                metrics = {id_: torch.full_like(value, torch.nan) for id_, value in metrics.items()}
            if accumulator.ignored.any():
                found[f"{prefix('')}/{IGNORED}"] = accumulator.ignored
            found |= {f"{prefix(layer)}/{id_}": value for id_, value in metrics.items()}
        if self._scored == self._batches:  # every batch had logits
            correct, counted = self._scores
            found[f"{prefix('')}/accuracy"] = correct / counted
        return found

    def _metrics(self, accumulator: Accumulator) -> dict[str, Tensor]:
        if accumulator.needs_revisit and accumulator._look is None:
            if accumulator._flags.rows:
                self._tracker._warn_once("split memory", _LARGE)
            accumulator._selection = accumulator._selection.without("revisit")
        return accumulator.compute()

    def _look(self, accumulators: dict[str, Accumulator]) -> None:
        """Show the kept features again to the accumulators that need it."""
        waiting = {layer: a for layer, a in accumulators.items() if a.needs_revisit}
        if waiting and self._kept.can_repeat:
            for accumulator in waiting.values():
                if accumulator._flags.rows:
                    accumulator._looking("end")  # also on a rank without rows
            self._kept.again(lambda batch: revisit(waiting, batch))
        self._looked = True

    def _update(self, layer: str, feats: Tensor, labels: Any, mask: Tensor | None) -> None:
        of_labels = isinstance(labels, Tensor) and feats.shape[:-1] == labels.shape
        if layer not in self.moments and (feats.ndim == 2 or of_labels):
            self.moments[layer] = self._accumulator(layer, feats)  # other ranks have it too
        if layer not in self.moments:
            shape = tuple(feats.shape)
            raise ValueError(_SHAPE.format(shape=shape, labels=getattr(labels, "shape", None)))
        if labels is not None:
            self.moments[layer].update(feats, labels, mask=mask)
            if self.moments[layer].needs_revisit:
                self._kept.keep(Batch({layer: feats}, labels, mask))

    def _accumulator(self, layer: str, feats: Tensor) -> Accumulator:
        head = classifier_of(self._capture.heads(self._tracker.num_classes).get(layer))
        weight, bias = (None, None) if head is None else head
        there = {"classifier": weight, "bias": bias, "ood": None}
        lacking = {need for need, part in there.items() if part is None}
        ids = [id_ for id_ in self._tracker.metrics if id_ in CATALOGUE]
        return Accumulator(
            self._tracker.num_classes,
            feats.shape[-1],
            metrics=[id_ for id_ in ids if not CATALOGUE[id_].needs & lacking],
            weight=weight,
            bias=bias,
            ignore_index=self._ignore_index,
            memory_limit=MEMORY,
            device=feats.device,
        )

    def _miss(self, wrong: dict[str, Any]) -> None:
        for layer, problem in wrong.items():
            self._spoiled.add(layer)
            if problem is not None:
                message = f"Layer {layer!r} is not measured: {problem}"
                self._tracker._warn_once(f"split {layer}", message)

    def _score(self, logits: Tensor, labels: Tensor, mask: Tensor | None) -> None:
        logits = logits.to(with_float64(logits.device))
        labels = as_int64(labels).to(logits.device)
        counted = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask.to(labels) > 0
        if self._ignore_index is not None:
            counted = counted & (labels != self._ignore_index)
        known = (labels >= 0) & (labels < self._tracker.num_classes)
        right = (counted & (logits.argmax(-1) == labels)).sum(dtype=torch.float64)
        right = torch.where((known | ~counted).all(), right, torch.nan)
        found = torch.stack([right, counted.sum(dtype=torch.float64)])
        self._scores, self._scored = self._scores.to(found.device) + found, self._scored + 1


def _nothing(visit: Callable[[Batch], None]) -> None:
    """A pass over batches that another framework makes, and that cannot be repeated."""


def _are_scores(logits: Any, labels: Any, rows: int, num_classes: int) -> bool:
    if not (isinstance(logits, Tensor) and isinstance(labels, Tensor)):
        return False
    return not labels.is_floating_point() and logits[:rows].shape == (*labels.shape, num_classes)


_SHAPE = (
    "Expected features (N, D) for labels (N,), or (B, T, D) for (B, T), but got {shape} for labels "
    "of shape {labels}. Pass pool=, such as 'gap', 'last', 'cls' or 'flatten'."
)
_LARGE = (
    "The features of a split exceed 2 GiB: the metrics that look at them a second time, such as "
    "nc4.*, are left out. Call ncfast.evaluate, which runs the model twice instead."
)
