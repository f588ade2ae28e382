"""Measures a frozen model on a whole split: metrics, accuracy and loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ncfast._arrays import as_tensor
from ncfast._warnings import user_level
from ncfast.accumulator import Accumulator
from ncfast.evaluation.collect import accumulators_of
from ncfast.evaluation.looks import CANNOT_REPEAT, Batch, Kept, Memory, Visit, can_reread
from ncfast.features.batches import MASK, as_labels, inputs_and_labels, inputs_of
from ncfast.features.capture import FeatureCapture
from ncfast.features.classifier import classifier_of
from ncfast.features.model import evaluation_mode, model_device, outputs_of
from ncfast.metrics.catalogue import CATALOGUE, resolve
from ncfast.metrics.needs import as_bytes
from ncfast.tracking.keys import IGNORED
from ncfast.tracking.reduction import Ranks
from ncfast.tracking.scores import LossFunction, Reduction, Scores

Batches = Iterable[Any]


class Snapshot:
    """The measurements of a model on a split, merged exactly over the batches.

    Args:
        model: the model, which runs in eval mode.
        capture: the hooks that capture its features.
        num_classes: K.
        loss: a function of outputs and labels, or None.
        reduction: what ``loss`` does with the samples of a batch.
        metrics: ids, families, tiers, "default" or "all".
        ignore_index: rows with this label are left out; None leaves out none.
        memory_limit: for kept features and for each D x D matrix.

    Attributes:
        accumulators: by layer.
        errors: the layers that could not be measured in some batch, and why.
        repeated: the layers that ran several times for a batch, and how often.
        skipped: the number of batches without labels or rows.
    """

    def __init__(
        self,
        model: nn.Module,
        capture: FeatureCapture,
        num_classes: int,
        loss: LossFunction | None,
        reduction: Reduction = "mean",
        *,
        metrics: Sequence[str] = ("default",),
        ignore_index: int | None = -100,
        memory_limit: int | str | None = "2GiB",
    ) -> None:
        wanted = any("classifier" in CATALOGUE[i].needs for i in resolve(metrics, CATALOGUE))
        heads = capture.heads(num_classes) if wanted else {}
        self.accumulators, _ = accumulators_of(
            {name: classifier_of(heads.get(name)) for name in capture.names},
            num_classes,
            metrics,
            ignore_index=ignore_index,
            memory_limit=memory_limit,
        )
        self.errors: dict[str, Exception] = {}
        self.repeated: dict[str, int] = {}
        self.skipped = 0
        self._model, self._capture = model, capture
        self._scores = Scores(loss, reduction, num_classes, ignore_index)
        self._memory_limit = as_bytes(memory_limit)
        self._cannot_repeat = False
        self._undefined: set[str] = set()  # layers that another rank could not measure

    @property
    def empty(self) -> bool:
        """Whether there was no batch at all."""
        return not (self._scores.rows or self.skipped)

    @property
    def moments(self) -> dict[str, Accumulator]:
        """The accumulators of the layers that have some features, by layer."""
        return {n: a for n, a in self.accumulators.items() if a._state is not None}

    def run(
        self,
        batches: Batches,
        ood: Batches | None = None,
        reduce: Callable[[], object] | None = None,
    ) -> None:
        """Measure every batch, twice where a metric needs that.

        Args:
            batches: of the split.
            ood: from outside the distribution, with or without labels.
            reduce: merges the accumulators with those of the other ranks; called after each look.

        Raises:
            TypeError: a batch has no inputs and labels, or its loss is no number.
            ValueError: the loss has another shape; a metric asked for by name lacks an input.
        """
        for accumulator in self.accumulators.values():
            _check_inputs(accumulator, ood=ood is not None)
        memory = Memory(self._memory_limit) if self._looks_twice(ood is not None) else None
        passes = [Kept(self._pass(batches, self._inside), memory, repeatable=can_reread(batches))]
        if ood is not None:
            again = can_reread(ood)
            passes.append(Kept(self._pass(ood, self._outside), memory, repeatable=again))
        for each in passes:
            each.first(self._update)
        self._cannot_repeat = not all(each.can_repeat for each in passes)
        if reduce is not None:
            reduce()
        if not any(a.needs_revisit for a in self.accumulators.values()):
            return
        if self._cannot_repeat:
            warnings.warn(CANNOT_REPEAT, RuntimeWarning, stacklevel=user_level())
            return
        for each in passes:
            each.again(self._revisit)
        if reduce is not None:
            reduce()

    def _looks_twice(self, ood: bool) -> bool:
        """Whether a metric reads the features a second time."""
        return any(
            a.needs_revisit or (ood and "revisit" in a._selection.needs)
            for a in self.accumulators.values()
        )

    def _update(self, batch: Batch) -> None:
        for name, feats in batch.feats.items():
            accumulator = self.accumulators[name]
            if batch.labels is None:
                self._try(name, accumulator.update_ood, feats)
            else:
                self._try(name, accumulator.update, feats, batch.labels, mask=batch.mask)

    def _revisit(self, batch: Batch) -> None:
        for name, feats in batch.feats.items():
            accumulator = self.accumulators[name]
            if not accumulator.needs_revisit:
                continue
            if batch.labels is None:
                self._try(name, accumulator.revisit_ood, feats)
            else:
                self._try(name, accumulator.revisit, feats, batch.labels, mask=batch.mask)

    def _try(self, name: str, call: Callable[..., object], *args: Any, **options: Any) -> None:
        """Call a method of a layer's accumulator; a layer that fails once is called no more."""
        if name not in self.errors:
            try:
                call(*args, **options)
            except (TypeError, ValueError) as error:
                self.errors[name] = error

    def values(self, ids: Sequence[str], prefix: Callable[[str], str]) -> dict[str, Tensor]:
        """The values for the record by key, 0-d tensors, of layers measured in every batch.

        Args:
            ids: the metrics asked for, in the order of the record.
            prefix: maps a layer to the first part of its keys, and "" to that of the scores.
        """
        lead, scores = prefix(""), self._scores
        found = {f"{lead}/{n}": total / scores.counted for n, total in scores.sums.items()}
        for layer, accumulator in self.moments.items():
            if layer in self.errors:
                continue
            metrics, way = _values(accumulator), prefix(layer)
            if layer in self._undefined:
                metrics = {id_: torch.full_like(value, torch.nan) for id_, value in metrics.items()}
            found |= {f"{way}/{id_}": metrics[id_] for id_ in ids if id_ in metrics}
            if int(accumulator.ignored):
                found[f"{lead}/{IGNORED}"] = accumulator.ignored
        return found

    def all_reduce(self, ranks: Ranks, call: str) -> int:
        """Merge with the snapshots of the other ranks; an exception leaves this one unchanged.

        Returns:
            The number of samples over all ranks.
        """
        before = {n: (a._state, a._look) for n, a in self.accumulators.items()}
        shared = all(a._flags.shared for a in self.moments.values()) and bool(self.moments)
        try:
            if not shared:
                self._add_up(ranks, call)
            for accumulator in self.accumulators.values():
                ranks.accumulate(accumulator)
        except Exception:
            for name, kept in before.items():
                self.accumulators[name]._state, self.accumulators[name]._look = kept
            raise
        return self._scores.rows

    def _add_up(self, ranks: Ranks, call: str) -> None:
        """The sums of all ranks, and the layers that one of them could not measure."""
        layers, scores = list(self.accumulators), self._scores
        device = next(iter(scores.sums.values()), torch.zeros(())).device
        own = [float(scores.rows), float(scores.counted)]
        own += [float(self._cannot_repeat), *(float(name in self.errors) for name in layers)]
        flags = torch.tensor(own, dtype=torch.float64, device=device)
        packed = torch.cat([flags, *(total.view(1) for total in scores.sums.values())])
        sums = ranks.sums(packed, f"{call} with {', '.join([*layers, *scores.sums])}")
        rows, scores.counted, cannot_repeat, *rest = sums.unbind()
        scores.rows, self._cannot_repeat = int(rows), bool(cannot_repeat)
        self._undefined = {name for name, wrong in zip(layers, rest, strict=False) if wrong}
        scores.sums = dict(zip(scores.sums, rest[len(layers) :], strict=True))

    def _pass(
        self, batches: Batches, read: Callable[[Any, bool], Batch | None]
    ) -> Callable[[Visit], None]:
        """A function that runs the model over the batches and passes their features on."""
        passes = 0

        def run(visit: Visit) -> None:
            nonlocal passes
            passes += 1
            self._capture.enabled = True
            with self._capture.isolated(), evaluation_mode(self._model):
                for batch in batches:
                    found = read(batch, passes == 1)
                    if found is not None:
                        visit(found)

        return run

    def _inside(self, batch: Any, first: bool) -> Batch | None:
        """Features, labels and mask of a batch; its scores are added in the first pass."""
        device = model_device(self._model)
        inputs, labels = inputs_and_labels(batch)
        if labels is None or len(labels := as_labels(labels, device)) == 0:
            self.skipped += first
            return None
        mask = inputs.get(MASK) if isinstance(inputs, Mapping) else None
        mask = None if mask is None else as_tensor(MASK, mask).to(device)
        mask = mask if mask is not None and mask.shape == labels.shape else None
        outputs = outputs_of(self._model, inputs, device)
        features = self._taken()
        if first:
            self._scores.add(outputs, labels, mask)
        return self._batch(features, labels, mask)

    def _outside(self, batch: Any, first: bool) -> Batch:
        """Features of a batch from outside the distribution."""
        outputs_of(self._model, inputs_of(batch), model_device(self._model))
        return self._batch(self._taken(), None, None)

    @staticmethod
    def _batch(features: dict[str, Tensor], labels: Tensor | None, mask: Tensor | None) -> Batch:
        return Batch(features, labels, mask)

    def _taken(self) -> dict[str, Tensor]:
        self.repeated |= self._capture.repeated()
        features, errors = self._capture.take()
        self.errors = errors | self.errors
        return features


def _check_inputs(accumulator: Accumulator, *, ood: bool) -> None:
    """Raise ValueError if an id asked for by name lacks an input that no batch brings."""
    there = accumulator._there() | {"revisit", "scores", *(("ood",) if ood else ())}
    missing = accumulator._selection.missing(accumulator.dim, frozenset(there))
    for id_ in accumulator._selection.named:
        if id_ in missing and "memory_limit" not in missing[id_]:
            raise ValueError(
                f"Expected all inputs of the metric {id_!r}, asked for by name, but it "
                f"{missing[id_].partition(':')[0]}. {_REMEDY}"
            )


def _values(accumulator: Accumulator) -> dict[str, Tensor]:
    """The metrics; without those of the second look, if it saw other rows than the first."""
    # a warning has named the metrics that lack a second look; the others are computed
    accumulator._selection = replace(accumulator._selection, named=())
    try:
        return accumulator.compute()
    except ValueError as error:
        accumulator._look = None
        text = f"Metrics that look at the rows a second time are left out: {error}"
        warnings.warn(text, RuntimeWarning, stacklevel=user_level())
        return accumulator.compute()


_REMEDY = (
    "Pass ood=, batches from outside the distribution, for NC5; track the input of an nn.Linear "
    "with K rows for metrics of a classifier."
)
