"""Measures a frozen model on a whole split: metrics, accuracy and loss."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Self

from ncfast._arrays import as_tensor
from ncfast._validate import LABEL_DTYPES
from ncfast.accumulator import Accumulator
from ncfast.metrics.catalogue import CATALOGUE, resolve
from ncfast.metrics.needs import as_bytes
from ncfast.tracking import messages
from ncfast.tracking.batches import (
    MASK,
    LossFunction,
    Reduction,
    as_labels,
    inputs_and_labels,
    inputs_of,
    outputs_of,
    total_loss,
)
from ncfast.tracking.capture import FeatureCapture
from ncfast.tracking.keys import IGNORED
from ncfast.tracking.layers import model_device
from ncfast.tracking.looks import (
    Batch,
    Kept,
    Memory,
    Visit,
    accumulators_of,
    look_twice,
    repeatable,
)
from ncfast.tracking.reduction import Ranks
from ncfast.tracking.step_metrics import classifier_of

Batches = Iterable[Any]


class Measuring(Accumulator):
    """An accumulator that keeps the error of a batch for later: the other layers go on.

    Attributes:
        error: the first error, or None.
    """

    error: Exception | None = None

    def update(self, feats: Any, labels: Any, *, mask: Any = None) -> Self:
        """See `Accumulator.update`."""
        return self._tried(super().update, feats, labels, mask=mask)

    def revisit(self, feats: Any, labels: Any, *, mask: Any = None) -> Self:
        """See `Accumulator.revisit`."""
        return self._tried(super().revisit, feats, labels, mask=mask)

    def update_ood(self, feats: Any) -> Self:
        """See `Accumulator.update_ood`."""
        return self._tried(super().update_ood, feats)

    def revisit_ood(self, feats: Any) -> Self:
        """See `Accumulator.revisit_ood`."""
        return self._tried(super().revisit_ood, feats)

    def _tried(self, call: Callable[..., object], *args: Any, **options: Any) -> Self:
        if self.error is None:
            try:
                call(*args, **options)
            except (TypeError, ValueError) as error:
                self.error = error
        return self

    def check_inputs(self, *, ood: bool) -> None:
        """Raise ValueError if an id asked for by name lacks an input that no batch brings."""
        there = self._there() | {"revisit", "scores", *(("ood",) if ood else ())}
        for id_, why in self._selection.missing(self.dim, there).items():
            if id_ in self._selection.named and "memory_limit" not in why:
                raise ValueError(
                    f"Expected all inputs of the metric {id_!r}, asked for by name, but it "
                    f"{why.partition(':')[0]}. {_REMEDY}"
                )

    def values(self) -> dict[str, Tensor]:
        """The metrics; after a second look at other rows than the first, those that need none."""
        self._selection = replace(self._selection, named=())  # one that lacks a look stops no other
        try:
            return self.compute()
        except ValueError as error:
            self._look = None
            text = f"Metrics that look at the rows a second time are left out: {error}"
            warnings.warn(text, RuntimeWarning, stacklevel=messages.user_level())
            return self.compute()


_REMEDY = (
    "Pass ood=, batches from outside the distribution, for NC5; track the input of an nn.Linear "
    "with K rows for metrics of a classifier."
)


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
            Measuring,
            ignore_index=ignore_index,
            memory_limit=memory_limit,
        )
        self.errors: dict[str, Exception] = {}
        self.repeated: dict[str, int] = {}
        self.skipped = 0
        self._model, self._capture, self._ignore_index = model, capture, ignore_index
        self._num_classes, self._loss, self._reduction = num_classes, loss, reduction
        self._memory_limit = as_bytes(memory_limit)
        self._sums: dict[str, Tensor] = {}
        self._counted: Tensor | float = 0.0  # rows that were not left out
        self._count = 0
        self._undefined: set[str] = set()  # layers that another rank could not measure

    @property
    def empty(self) -> bool:
        """Whether there was no batch at all."""
        return not (self._count or self.skipped)

    @property
    def moments(self) -> dict[str, Measuring]:
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
            accumulator.check_inputs(ood=ood is not None)
        twice = any(
            a.needs_revisit or (ood is not None and "revisit" in a._selection.needs)
            for a in self.accumulators.values()
        )
        memory = Memory(self._memory_limit) if twice else None
        inside = Kept(self._pass(batches, self._inside), memory, repeatable=repeatable(batches))
        outside = None
        if ood is not None:
            outside = Kept(self._pass(ood, self._outside), memory, repeatable=repeatable(ood))
        reduced = None if reduce is None else lambda _: reduce()
        look_twice(self.accumulators, inside, outside, reduced)
        for name, accumulator in self.accumulators.items():
            if accumulator.error is not None:
                self.errors.setdefault(name, accumulator.error)

    def values(self, ids: Sequence[str], prefix: Callable[[str], str]) -> dict[str, Tensor]:
        """The values for the record by key, 0-d tensors, of the layers that all batches have.

        Args:
            ids: the metrics asked for, in the order of the record.
            prefix: gives the first part of a layer's keys; "" asks for that of the scores.
        """
        lead = prefix("")
        found = {f"{lead}/{n}": total / self._counted for n, total in self._sums.items()}
        for layer, accumulator in self.moments.items():
            if layer in self.errors:
                continue
            metrics, way = accumulator.values(), prefix(layer)
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
        return self._count

    def _add_up(self, ranks: Ranks, call: str) -> None:
        """The sums of all ranks, and the layers that one of them could not measure."""
        layers = list(self.accumulators)
        device = next(iter(self._sums.values()), torch.zeros(())).device
        own = [float(self._count), float(self._counted)]
        own += [float(self.accumulators[name].error is not None) for name in layers]
        own += [float(name in self.errors) for name in layers]
        scores = torch.tensor(own, dtype=torch.float64, device=device)
        packed = torch.cat([scores, *(total.view(1) for total in self._sums.values())])
        sums = ranks.sums(packed, f"{call} with {', '.join([*layers, *self._sums])}")
        count, self._counted, *rest = sums.unbind()
        self._count = int(count)
        wrong = [*zip([*layers, *layers], rest[: 2 * len(layers)], strict=True)]
        self._undefined = {name for name, number in wrong if number}
        self._sums = dict(zip(self._sums, rest[2 * len(layers) :], strict=True))

    def _pass(
        self, batches: Batches, read: Callable[[Any, bool], Batch | None]
    ) -> Callable[[Visit], None]:
        """A function that runs the model over the batches and shows their features."""
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
            self._score(outputs, labels, mask)
        return Batch(features, labels, mask)

    def _outside(self, batch: Any, first: bool) -> Batch:
        """Features of a batch from outside the distribution."""
        outputs_of(self._model, inputs_of(batch), model_device(self._model))
        return Batch(self._taken(), None)

    def _taken(self) -> dict[str, Tensor]:
        self.repeated |= self._capture.repeated()
        features, errors = self._capture.take()
        self.errors = errors | self.errors
        return features

    def _score(self, outputs: Any, labels: Tensor, mask: Tensor | None) -> None:
        """Add the accuracy and the loss of a batch, over the rows that are not left out."""
        rows = len(labels)
        self._count += rows
        indices = labels.dtype in LABEL_DTYPES  # others, such as soft labels, have a loss alone
        shape = labels.shape if indices else (rows,)
        counted = torch.ones(shape, dtype=torch.bool, device=labels.device)
        counted = counted if mask is None else mask > 0
        if self._ignore_index is not None and indices:
            counted = counted & (labels != self._ignore_index)
        number = counted.sum(dtype=torch.float64)
        self._counted = self._counted + number
        scores: dict[str, Tensor] = {}
        logits = isinstance(outputs, Tensor) and outputs.shape == (*labels.shape, self._num_classes)
        if logits and indices:
            scores["accuracy"] = (counted & (outputs.argmax(-1) == labels)).sum(dtype=torch.float64)
        if self._loss is not None:
            scores["loss"] = self._total_loss(self._loss(outputs, labels), rows, number, labels)
        for name, value in scores.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _total_loss(self, value: Any, rows: int, number: Tensor, labels: Tensor) -> Tensor:
        """The sum of the losses; a mean is one over the rows that are not left out."""
        if isinstance(value, Tensor) and value.ndim and value.shape == labels.shape:
            return value.sum(dtype=torch.float64)  # one for each label
        total = total_loss(value, rows, self._reduction)
        if self._reduction == "sum" or np.ndim(value):
            return total
        # torch's mean over no row is NaN
        return torch.where(number > 0, total * (number / rows), 0.0)


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode without gradients; restore all modes and random streams.

    The modes are the training flags of all submodules. The streams are the global ones of torch
    (CPU and the model's device), NumPy and Python: a DataLoader draws from torch's stream even when
    it does not shuffle.
    """
    modes = [(module, module.training) for module in model.modules()]
    device = model_device(model)
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    devices = [device] if device.type == "cuda" else []
    try:
        model.eval()
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
