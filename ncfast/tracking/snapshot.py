"""Measures a frozen model on a whole split: metrics, accuracy and loss."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ncfast._arrays import as_tensor
from ncfast._validate import LABEL_DTYPES, has_float64
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
from ncfast.ops._raw import as_int64
from ncfast.tracking.keys import IGNORED
from ncfast.tracking.numbers import as_number
from ncfast.tracking.reduction import Ranks

Batches = Iterable[Any]
LossFunction = Callable[[Any, Any], Any]
Reduction = Literal["mean", "sum", "none"]


class Snapshot:
    """The measurements of a model on a split, merged exactly over the batches.

    Args:
        model: the model, which runs in eval mode.
        capture: the hooks that capture its features.
        num_classes: K.
        loss: a function of outputs and labels, or None.
        reduction: how ``loss`` combines the samples of a batch.
        metrics: ids, families, tiers, "default" or "all".
        ignore_index: rows with this label are left out; None leaves out none.
        memory_limit: the most memory for kept features, and for each D x D matrix: bytes, or text
            such as "2GiB"; None for no limit.

    Attributes:
        accumulators: the accumulator of each layer.
        errors: for each layer that could not be measured in some batch, the reason.
        repeated: for each layer that ran several times for a batch, how often.
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
        self._undefined: set[str] = set()  # layers that some rank could not measure

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
            reduce: merges the accumulators with those of the other ranks, after each pass.

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
        """Call a method of a layer's accumulator, unless an earlier call has failed."""
        if name not in self.errors:
            try:
                call(*args, **options)
            except (TypeError, ValueError) as error:
                self.errors[name] = error

    def values(self, ids: Sequence[str], prefix: Callable[[str], str]) -> dict[str, Tensor]:
        """The values for the record by key, 0-d tensors; layers with an error have none.

        Args:
            ids: the metrics asked for, in the order of the record.
            prefix: maps a layer to the first part of its keys, and "" to that of the scores.
        """
        lead, scores = prefix(""), self._scores
        found = {f"{lead}/{n}": total / scores.counted for n, total in scores.sums.items()}
        for layer, accumulator in self.moments.items():
            if layer in self.errors:
                continue
            metrics, layer_prefix = _values(accumulator), prefix(layer)
            if layer in self._undefined:
                metrics = {id_: torch.full_like(value, torch.nan) for id_, value in metrics.items()}
            found |= {f"{layer_prefix}/{id_}": metrics[id_] for id_ in ids if id_ in metrics}
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
        """Add up the scores of all ranks, and find the layers that a rank could not measure."""
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
        return Batch(features, labels, mask)

    def _outside(self, batch: Any, first: bool) -> Batch:
        """Features of a batch from outside the distribution."""
        outputs_of(self._model, inputs_of(batch), model_device(self._model))
        return Batch(self._taken(), None, None)

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
    """The metrics, without those of the second look if it saw other rows than the first."""
    # a warning has named the metrics that lack the second look; this computes the others
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


class Scores:
    """The accuracy and the loss of a split, summed over the rows that are not left out.

    Args:
        loss: a function of outputs and labels, or None.
        reduction: how ``loss`` combines the samples of a batch.
        num_classes: K.
        ignore_index: rows with this label are left out; None leaves out none.

    Attributes:
        rows: the number of all rows.
        counted: the number of rows that are not left out.
        sums: by name, the number of correct predictions and the sum of the losses, () float64.
    """

    def __init__(
        self,
        loss: LossFunction | None,
        reduction: Reduction,
        num_classes: int,
        ignore_index: int | None,
    ) -> None:
        self._loss, self._reduction = loss, reduction
        self._num_classes, self._ignore_index = num_classes, ignore_index
        self.rows = 0
        self.counted: Tensor | float = 0.0
        self.sums: dict[str, Tensor] = {}

    def add(self, outputs: Any, labels: Tensor, mask: Tensor | None) -> None:
        """Add a batch; rows where the mask is zero are left out."""
        loss = None if self._loss is None else self._loss(outputs, labels)
        if not has_float64(labels.device):
            labels, mask = labels.cpu(), None if mask is None else mask.cpu()
            outputs, loss = (x.cpu() if isinstance(x, Tensor) else x for x in (outputs, loss))
        rows = len(labels)
        self.rows += rows
        indices = labels.dtype in LABEL_DTYPES  # other labels, such as soft ones, have only a loss
        labels = as_int64(labels) if indices else labels
        shape = labels.shape if indices else (rows,)
        counted = torch.ones(shape, dtype=torch.bool, device=labels.device)
        counted = counted if mask is None else mask > 0
        if self._ignore_index is not None and indices:
            counted = counted & (labels != self._ignore_index)
        number = counted.sum(dtype=torch.float64)
        self.counted = self.counted + number
        scores: dict[str, Tensor] = {}
        logits = isinstance(outputs, Tensor) and outputs.shape == (*labels.shape, self._num_classes)
        if logits and indices:
            scores["accuracy"] = (counted & (outputs.argmax(-1) == labels)).sum(dtype=torch.float64)
        if self._loss is not None:
            scores["loss"] = self._total_loss(loss, rows, counted)
        for name, value in scores.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def _total_loss(self, value: Any, rows: int, counted: Tensor) -> Tensor:
        """The sum of the losses of a batch; a mean counts as that of the rows in ``counted``."""
        if isinstance(value, Tensor) and value.ndim and value.shape == counted.shape:
            return torch.where(counted, value.detach(), 0).sum(dtype=torch.float64)
        number = counted.sum(dtype=torch.float64)
        total = total_loss(value, rows, self._reduction)
        if self._reduction == "sum" or np.ndim(value):
            return total
        # torch's mean over no row is NaN
        return torch.where(number > 0, total * (number / rows), 0.0)


def reduction_of(loss: LossFunction | None, given: Reduction | None) -> Reduction:
    """The reduction of a loss function over a batch: the given one, "sum" if it says so, or "mean".

    Args:
        loss: a module with an attribute ``reduction``, a method of one, a ``functools.partial`` of
            these or of one of torch's functions, or any function.
        given: the user's choice, which takes precedence.

    Raises:
        ValueError: ``given`` is no reduction.
    """
    if given not in (None, "mean", "sum", "none"):
        raise ValueError(
            "Expected argument `loss_reduction` to be None, 'mean', 'sum' or 'none' but got "
            f"{given!r}."
        )
    if given is not None:
        return given
    return "sum" if _stated(loss) == "sum" else "mean"


def _stated(loss: Any) -> Any:
    if isinstance(loss, functools.partial):
        return loss.keywords.get("reduction", _stated(loss.func))
    owner = getattr(loss, "__self__", None)  # a method that is bound to a module
    return getattr(loss, "reduction", getattr(owner, "reduction", None))


def total_loss(value: Any, rows: int, reduction: Reduction) -> Tensor:
    """The sum of the losses over the samples of a batch, () float64.

    Args:
        value: the loss function's result: one number that `as_number` takes, or a loss for each
            sample, (N, ...), which is averaged over the further axes.
        rows: N.
        reduction: "mean" or "sum" tells which of them one number is; "none" allows no single number
            for several samples.

    Raises:
        TypeError: the value is no real number and no tensor of real numbers.
        ValueError: its shape is neither () nor (N, ...).
    """
    value = _as_tensor(value).detach().to(torch.float64)
    if value.ndim and len(value) == rows and (rows > 1 or value.ndim > 1):
        return value.sum() if reduction == "sum" else value.reshape(rows, -1).mean(1).sum()
    if value.numel() != 1 or (reduction == "none" and rows > 1):
        raise ValueError(
            "Expected argument `loss` to return one number, or one for each of the "
            f"{rows} samples, but got shape {tuple(value.shape)}. Use reduction='mean'."
        )
    return value.reshape(()) * (1 if reduction == "sum" else rows)


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        value = torch.as_tensor(value.astype(np.float64))
    if isinstance(value, Tensor) and not value.is_complex():
        return value
    try:
        return torch.as_tensor(as_number("loss", value), dtype=torch.float64)
    except TypeError as error:
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(
            f"Expected argument `loss` to return a real number but got {kind}."
        ) from error
