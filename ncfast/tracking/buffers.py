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
from ncfast.tracking.keys import LOCAL
from ncfast.tracking.records import LeftOut, Table
from ncfast.tracking.reduction import Ranks, describe_steps
from ncfast.tracking.step_metrics import StepMetrics


class Buffers:
    """The batches that are measured and not evaluated yet.

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
        # the rows of a buffer need not hold absent classes, unless they are merged or averaged
        alone = averaging.kind == "batch" and not merges and _raw.extension is not None
        self._holds_present = alone and metrics.of_moments_alone
        self.capacity = math.inf
        self._buffers: dict[object, MomentsBuffer] = {}
        self._loaded: dict[str, Tensor] = {}  # averages of buffers that are not there yet

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
        """Measure a batch, which the caller has checked, for the record of ``step``.

        Args:
            step: the current step.
            prefix: the first part of the keys.
            feats: see `MomentsBuffer.push`.
            labels: likewise.
            mask: likewise.
            classifier: likewise.
            left_out_key: the key for the number of rows that are left out.

        Returns:
            The buffer that holds its moments.
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
        for buffer in self.filled:
            buffer.clear()

    def averages(self) -> dict[str, Tensor]:
        """The states of the averages, also of those loaded for batches that did not come yet."""
        found = dict(self._loaded)
        for buffer in self._buffers.values():
            found |= buffer.average_state()
        return found

    def load_averages(self, states: Mapping[str, Tensor]) -> None:
        """Continue from what `averages` returned; everything must have been sent."""
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
    buffers: list[MomentsBuffer],
    steps: list[list[int]],
    states: list[Tensor],
) -> tuple[list[Tensor], list[Table]]:
    """The states over all ranks; or the states of this rank, and a table that marks them."""
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


def tables_of(
    buffers: Sequence[MomentsBuffer], steps: Sequence[list[int]], states: Sequence[Tensor]
) -> list[Table]:
    """The metrics of each buffer's batches, for the records of their steps."""
    found = evaluate_buffers(buffers, states)
    return [
        Table(buffer.keys, of, values, _left_out(buffer, rows))
        for buffer, of, (values, rows) in zip(buffers, steps, found, strict=True)
    ]


def advance_averages(buffers: Sequence[MomentsBuffer], states: Sequence[Tensor]) -> None:
    """Add the batches to the averages where nobody gets the metrics: a state_dict has them."""
    for buffer, batches in zip(buffers, states, strict=True):
        buffer.averaged(batches)


def _left_out(buffer: MomentsBuffer, rows: Tensor) -> LeftOut | None:
    numbers = buffer.extras.numbers_left_out(len(rows))
    if numbers is None:
        return None
    return LeftOut(buffer.left_out_key, torch.stack([numbers, rows.to(torch.float64)], 1))


@torch.no_grad()
def evaluate_states(
    states: Tensor,
    layout: Layout,
    ids: Sequence[str],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """The metrics of packed states. The host reads nothing of states on an accelerator.

    Args:
        states: (n, layout.size) float64.
        layout: the layout of each row.
        ids: metrics that need the moments, or a classifier as well.
        weight: (n, K, D) a classifier for each state, of any floating dtype; None for none.
        bias: (n, K).

    Returns:
        (n, len(ids)) float64 on the states' device.
    """
    if not ids:
        return states.new_empty((len(states), 0))
    inputs = MetricInputs(ClassMoments(*layout.split(states)))
    inputs.weight = None if weight is None else weight.to(torch.float64)
    inputs.bias = None if bias is None else bias.to(torch.float64)
    values = evaluate({id_: CATALOGUE[id_] for id_ in ids}, inputs)
    return torch.stack([values[id_] for id_ in ids], 1)


def evaluate_buffers(
    buffers: Sequence[MomentsBuffer], batches: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """The metrics of the batches of each buffer; buffers of one layout and device share a call.

    Args:
        buffers: one for each layer and split.
        batches: the packed moments of each buffer, (n, size), which averages overwrite.

    Returns:
        For each buffer (n, len(ids)) float64, and (n,) the rows that were not left out.
    """
    groups: dict[object, list[int]] = {}
    averaged = [b.averaged(states) for b, states in zip(buffers, batches, strict=True)]
    for number, (buffer, (_, layout)) in enumerate(zip(buffers, averaged, strict=True)):
        kept = [
            None if k is None else k.dtype for k in (buffer.extras.weights, buffer.extras.biases)
        ]
        groups.setdefault((layout, buffer.device, buffer.of_states, *kept), []).append(number)
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for numbers in groups.values():
        members, layout = [buffers[n] for n in numbers], averaged[numbers[0]][1]
        parts = [averaged[n][0] for n in numbers]
        sizes, states = [len(part) for part in parts], _joined(parts)
        weight = _of_rows([b.extras.weights for b in members], sizes)
        bias = _of_rows([b.extras.biases for b in members], sizes)
        values = evaluate_states(states, layout, members[0].of_states, weight, bias).split(sizes)
        kept_rows = layout.split(states)[0].sum(-1).split(sizes)
        for n, buffer, of_states, rows in zip(numbers, members, values, kept_rows, strict=True):
            found[n] = buffer.joined(of_states), rows
    return [found[number] for number in range(len(buffers))]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([*parts])


def _of_rows(parts: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor | None:
    rows = [part[:n] for part, n in zip(parts, sizes, strict=True) if part is not None]
    return _joined(rows) if rows else None
