"""The buffers of a tracker, one for each layer and split, which are evaluated together."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ncfast._warnings import user_level
from ncfast.features.classifier import Classifier
from ncfast.metrics.catalogue import CATALOGUE
from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import evaluate
from ncfast.moments import ClassMoments
from ncfast.ops import _raw
from ncfast.ops.states import Layout
from ncfast.tracking.averaging import Averaging
from ncfast.tracking.buffer import MomentsBuffer, slots_for
from ncfast.tracking.keys import LOCAL, StepMetrics
from ncfast.tracking.records import Table
from ncfast.tracking.reduction import Ranks, describe_steps


class Buffers:
    """The batches that are measured and not evaluated yet, in a buffer for each kind of batch.

    Args:
        metrics: the metrics of a step.
        num_classes: K.
        averaging: how batches are averaged.
        ignore_index: rows with this label are left out; None leaves out none.
        merges: whether the moments of several ranks are merged.

    Attributes:
        capacity: the rows of the smallest buffer; infinite while there is none.
    """

    def __init__(
        self,
        metrics: StepMetrics,
        num_classes: int,
        averaging: Averaging,
        ignore_index: int | None,
        *,
        merges: bool,
    ) -> None:
        self._metrics, self._ignore_index = metrics, ignore_index
        self._num_classes, self._averaging = num_classes, averaging
        # without merging or averaging, a row need not hold classes that its batch lacks
        alone = averaging.kind == "batch" and not merges and _raw.extension is not None
        self._holds_present = alone and metrics.of_moments_alone
        self.capacity = math.inf
        self._buffers: dict[object, MomentsBuffer] = {}
        self._loaded: dict[str, Tensor] = {}  # averages for buffers that do not exist yet

    @property
    def filled(self) -> list[MomentsBuffer]:
        """The buffers that hold a batch."""
        return [buffer for buffer in self._buffers.values() if buffer.steps]

    @property
    def full(self) -> bool:
        """Whether some buffer has no room for another batch."""
        return any(buffer.full for buffer in self._buffers.values())

    def push(
        self,
        step: int,
        prefix: str,
        feats: Tensor,
        labels: Tensor,
        *,
        mask: Tensor | None = None,
        classifier: Classifier | None = None,
        left_out_key: str = "",
    ) -> MomentsBuffer:
        """Measure a batch for the record of ``step``.

        Args:
            step: the current step.
            prefix: the first part of the keys.
            feats: as `MomentsBuffer.push` takes it.
            labels: as `MomentsBuffer.push` takes it.
            mask: as `MomentsBuffer.push` takes it.
            classifier: as `MomentsBuffer.push` takes it.
            left_out_key: the key for the number of rows that are left out.

        Returns:
            The buffer that holds the moments of the batch.
        """
        kept = [] if classifier is None else [None if p is None else p.dtype for p in classifier]
        classes = self._num_classes
        if self._holds_present and feats.is_cpu:
            classes = slots_for(len(feats), classes)
        layout = Layout(classes, feats.shape[1])
        key = (prefix, layout, feats.device, *kept)
        buffer = self._buffers.get(key)
        if buffer is None:
            made = self._new(prefix, layout, feats.device, classifier, left_out_key)
            buffer = self._buffers[key] = made
        buffer.push(step, feats, labels, mask, classifier)
        return buffer

    def replayed(self, step: int) -> None:
        """Add the rows that a replayed CUDA graph has written to the record of ``step``."""
        for buffer in self._buffers.values():
            if buffer.captured:
                buffer.replayed(step)

    def clear(self) -> None:
        """Forget all batches."""
        for buffer in self._buffers.values():
            if buffer.steps:
                buffer.clear()

    def averages(self) -> dict[str, Tensor]:
        """The state of each average, and of each that was loaded and not used yet, by name."""
        found = dict(self._loaded)
        for buffer in self._buffers.values():
            found |= buffer.average_state()
        return found

    def load_averages(self, states: Mapping[str, Tensor]) -> None:
        """Continue from the states that `averages` returned; no batch may be left to send."""
        self._loaded = dict(states)
        for buffer in self._buffers.values():
            self._load_average(buffer)

    def _load_average(self, buffer: MomentsBuffer) -> None:
        try:
            buffer.load_average(self._loaded.pop(buffer.key, None))
        except ValueError as error:
            buffer.load_average(None)
            warnings.warn(
                f"The average of {buffer.key} starts empty, because its saved state does not fit "
                f"{buffer.device}: {error} Load it on the kind of device where it was saved.",
                RuntimeWarning,
                stacklevel=user_level(),
            )

    def _new(
        self,
        prefix: str,
        layout: Layout,
        device: torch.device,
        classifier: Classifier | None,
        left_out_key: str,
    ) -> MomentsBuffer:
        measured = self._metrics.measured(layout.dim, classifier)
        with torch.inference_mode(False):  # else later steps could not write to its tensors
            buffer = MomentsBuffer(
                prefix,
                measured.ids,
                layout,
                device,
                self._averaging,
                of_batch=measured.of_batch,
                classifier=classifier if measured.reads_classifier else None,
                ignore_index=self._ignore_index,
                left_out_key=left_out_key,
                num_classes=self._num_classes,
            )
        if self._loaded:
            self._load_average(buffer)
        self.capacity = min(self.capacity, buffer.capacity)
        return buffer


def merge_batches(
    ranks: Ranks | None,
    buffers: Sequence[MomentsBuffer],
    steps: Sequence[list[int]],
    states: list[Tensor],
) -> tuple[list[Tensor], list[Table]]:
    """The packed moments over all ranks; or those of this rank alone, and a table that says so.

    Args:
        ranks: the ranks that merge; None for one process.
        buffers: one for each layer and split.
        steps: the step of each batch, for each buffer.
        states: the packed moments of these batches, for each buffer.
    """
    if ranks is None:
        return states, []
    pairs = list(zip(buffers, steps, strict=True))
    call = "; ".join(f"{describe_steps(of)} of {buffer.prefix}" for buffer, of in pairs)
    layouts = [buffer.layout for buffer in buffers]
    numbers = [b.extras.left_out[: len(of)] for b, of in pairs]
    merged = ranks.batches(layouts, states, call or describe_steps(()), numbers)
    if merged is not None:
        for buffer, left_out in zip(buffers, merged[len(states) :], strict=True):
            buffer.extras.merge_left_out(left_out)
        return merged[: len(states)], []
    marked = sorted({step for of in steps for step in of})
    ones = torch.ones(len(marked), 1, dtype=torch.float64, device="cpu")
    return states, [Table([LOCAL], marked, ones)] if marked else []


def advance_averages(buffers: Sequence[MomentsBuffer], states: Sequence[Tensor]) -> None:
    """Add the batches to the averages, of a rank without sinks: its state_dict has them."""
    for buffer, batches in zip(buffers, states, strict=True):
        buffer.averaged(batches)


def tables_of(
    buffers: Sequence[MomentsBuffer], steps: Sequence[list[int]], states: Sequence[Tensor]
) -> list[Table]:
    """The metrics of the batches of each buffer, with a row for each step.

    Buffers with the same layout, metrics and device are evaluated in one call.

    Args:
        buffers: one for each layer and split.
        steps: the step of each batch, for each buffer.
        states: the packed moments of these batches, (n, size), which averages overwrite.
    """
    groups: dict[object, list[int]] = {}
    rows = []
    for number, (buffer, batches) in enumerate(zip(buffers, states, strict=True)):
        rows.append(buffer.averaged(batches))
        groups.setdefault(buffer.evaluated_with, []).append(number)
    tables: dict[int, Table] = {}
    for numbers in groups.values():
        values = _evaluate([(buffers[number], rows[number]) for number in numbers])
        for number in numbers:
            buffer, size = buffers[number], len(rows[number])
            own, values = values[:size], values[size:]
            left_out = buffer.left_out(rows[number])
            tables[number] = Table(buffer.keys, steps[number], buffer.joined(own), left_out)
    return [tables[number] for number in range(len(buffers))]


def _evaluate(group: Sequence[tuple[MomentsBuffer, Tensor]]) -> Tensor:
    """The metrics of the rows of buffers that share `evaluated_with`, one after another."""
    first, states = group[0]
    weight = bias = None
    if first.extras.keeps:
        kept = [buffer.extras.classifiers(len(rows)) for buffer, rows in group]
        weight = _joined([each.weight for each in kept])
        biases = [each.bias for each in kept if each.bias is not None]
        bias = _joined(biases) if biases else None
    if len(group) > 1:
        states = torch.cat([rows for _, rows in group])
    return evaluate_states(states, first.evaluated_layout, first.of_states, weight, bias)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([*parts])


@torch.no_grad()
def evaluate_states(
    states: Tensor,
    layout: Layout,
    ids: Sequence[str],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """The metrics of packed moments. The host reads nothing that is on an accelerator.

    Args:
        states: (n, layout.size) float64.
        layout: the layout of each row.
        ids: metrics that need the moments, or a classifier as well.
        weight: (n, K, D) a classifier for each state, of floats of 16 to 64 bits; None for none.
        bias: (n, K), or None.

    Returns:
        (n, len(ids)) float64 on the states' device.
    """
    if not ids:
        return states.new_empty((len(states), 0))
    inputs = MetricInputs(ClassMoments(*layout.split(states)))
    inputs.weight = None if weight is None else weight.to(torch.float64)
    inputs.bias = None if bias is None else bias.to(torch.float64)
    values = evaluate({id_: CATALOGUE[id_] for id_ in ids}, inputs)
    return torch.stack([*values.values()], 1)
