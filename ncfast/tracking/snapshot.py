"""Measures a frozen model on a whole split: metrics, accuracy and loss."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ncfast._arrays import as_tensor
from ncfast._validate import LABEL_DTYPES, has_float64
from ncfast.accumulator import Accumulator
from ncfast.metrics.catalogue import CATALOGUE, resolve
from ncfast.metrics.needs import as_bytes
from ncfast.tracking import messages
from ncfast.tracking.batches import (
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
from ncfast.tracking.padding import MASK
from ncfast.tracking.reduction import Ranks
from ncfast.tracking.step_metrics import classifier_of

if TYPE_CHECKING:
    from ncfast.evaluation.looks import Batch, Visit

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
        from ncfast.evaluation.collect import accumulators_of  # it imports this module

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
        self._model, self._capture, self._ignore_index = model, capture, ignore_index
        self._num_classes, self._loss, self._reduction = num_classes, loss, reduction
        self._memory_limit = as_bytes(memory_limit)
        self._sums: dict[str, Tensor] = {}
        self._counted: Tensor | float = 0.0  # rows that were not left out
        self._count = 0
        self._cannot_repeat = False
        self._undefined: set[str] = set()  # layers that another rank could not measure

    @property
    def empty(self) -> bool:
        """Whether there was no batch at all."""
        return not (self._count or self.skipped)

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
        from ncfast.evaluation.looks import Kept, Memory

        for accumulator in self.accumulators.values():
            _check_inputs(accumulator, ood=ood is not None)
        memory = Memory(self._memory_limit) if self._looks_twice(ood is not None) else None
        passes = [Kept(self._pass(batches, self._inside), memory, repeatable=_repeatable(batches))]
        if ood is not None:
            again = _repeatable(ood)
            passes.append(Kept(self._pass(ood, self._outside), memory, repeatable=again))
        for each in passes:
            each.first(self._update)
        self._cannot_repeat = not all(each.can_repeat for each in passes)
        if reduce is not None:
            reduce()
        if not any(a.needs_revisit for a in self.accumulators.values()):
            return
        if self._cannot_repeat:
            warnings.warn(_CANNOT_REPEAT, RuntimeWarning, stacklevel=messages.user_level())
            return
        for each in passes:
            each.again(self._revisit)
        if reduce is not None:
            reduce()

    def _looks_twice(self, ood: bool) -> bool:
        """Whether a metric looks at the features a second time."""
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
        return self._count

    def _add_up(self, ranks: Ranks, call: str) -> None:
        """The sums of all ranks, and the layers that one of them could not measure."""
        layers = list(self.accumulators)
        device = next(iter(self._sums.values()), torch.zeros(())).device
        own = [float(self._count), float(self._counted)]
        own += [float(self._cannot_repeat), *(float(name in self.errors) for name in layers)]
        scores = torch.tensor(own, dtype=torch.float64, device=device)
        packed = torch.cat([scores, *(total.view(1) for total in self._sums.values())])
        sums = ranks.sums(packed, f"{call} with {', '.join([*layers, *self._sums])}")
        count, self._counted, cannot_repeat, *rest = sums.unbind()
        self._count, self._cannot_repeat = int(count), bool(cannot_repeat)
        self._undefined = {name for name, wrong in zip(layers, rest, strict=False) if wrong}
        self._sums = dict(zip(self._sums, rest[len(layers) :], strict=True))

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
        return self._batch(features, labels, mask)

    def _outside(self, batch: Any, first: bool) -> Batch:
        """Features of a batch from outside the distribution."""
        outputs_of(self._model, inputs_of(batch), model_device(self._model))
        return self._batch(self._taken(), None, None)

    @staticmethod
    def _batch(features: dict[str, Tensor], labels: Tensor | None, mask: Tensor | None) -> Batch:
        from ncfast.evaluation.looks import Batch

        return Batch(features, labels, mask)

    def _taken(self) -> dict[str, Tensor]:
        self.repeated |= self._capture.repeated()
        features, errors = self._capture.take()
        self.errors = errors | self.errors
        return features

    def _score(self, outputs: Any, labels: Tensor, mask: Tensor | None) -> None:
        """Add the accuracy and the loss of a batch, over the rows that are not left out."""
        loss = None if self._loss is None else self._loss(outputs, labels)
        if not has_float64(labels.device):
            labels, mask = labels.cpu(), None if mask is None else mask.cpu()
            outputs, loss = (x.cpu() if isinstance(x, Tensor) else x for x in (outputs, loss))
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
            scores["loss"] = self._total_loss(loss, rows, counted)
        for name, value in scores.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _total_loss(self, value: Any, rows: int, counted: Tensor) -> Tensor:
        """The sum of the losses of a batch; a mean is one over the rows that are not left out."""
        if isinstance(value, Tensor) and value.ndim and value.shape == counted.shape:
            return torch.where(counted, value.detach(), 0).sum(dtype=torch.float64)
        number = counted.sum(dtype=torch.float64)
        total = total_loss(value, rows, self._reduction)
        if self._reduction == "sum" or np.ndim(value):
            return total
        # torch's mean over no row is NaN
        return torch.where(number > 0, total * (number / rows), 0.0)


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
    """The metrics; after a second look at other rows than the first, those that need none."""
    # what lacks its second look now was said; it takes no other metric with it
    accumulator._selection = replace(accumulator._selection, named=())
    try:
        return accumulator.compute()
    except ValueError as error:
        accumulator._look = None
        text = f"Metrics that look at the rows a second time are left out: {error}"
        warnings.warn(text, RuntimeWarning, stacklevel=messages.user_level())
        return accumulator.compute()


def _repeatable(batches: Batches) -> bool:
    """Whether batches can be read a second time: not those of an iterator."""
    return not isinstance(batches, Iterator)


_REMEDY = (
    "Pass ood=, batches from outside the distribution, for NC5; track the input of an nn.Linear "
    "with K rows for metrics of a classifier."
)
_CANNOT_REPEAT = (
    "The split is an iterator that cannot be read twice, and its features exceed `memory_limit`: "
    "the metrics that need a second look, such as nc4.*, are left out. Pass a DataLoader or a "
    "list, or raise memory_limit."
)


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
