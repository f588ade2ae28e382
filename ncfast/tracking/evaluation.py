"""Evaluates the metrics of many packed states at once, which costs little more than one state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ncfast.metrics.catalogue import OF_MOMENTS
from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import evaluate
from ncfast.moments import ClassMoments
from ncfast.ops.states import Layout
from ncfast.tracking.buffer import MomentsBuffer


def evaluate_moments(moments: ClassMoments, ids: Sequence[str]) -> dict[str, Tensor]:
    """The metrics of class moments by id; leading axes of the moments become axes of each value.

    Args:
        moments: of one batch or split, or of many.
        ids: metrics of `ncfast.metrics.catalogue.OF_MOMENTS`.
    """
    return evaluate({id_: OF_MOMENTS[id_] for id_ in ids}, MetricInputs(moments))


@torch.no_grad()
def evaluate_states(states: Tensor, layout: Layout, ids: Sequence[str]) -> Tensor:
    """The metrics of packed states. The host reads nothing of states on an accelerator.

    Args:
        states: (n, layout.size) float64.
        layout: the layout of each row.
        ids: metrics of `ncfast.metrics.catalogue.OF_MOMENTS`.

    Returns:
        (n, len(ids)) float64 on the states' device.
    """
    values = evaluate_moments(ClassMoments(*layout.split(states)), ids)
    return torch.stack([values[id_] for id_ in ids], 1)


def evaluate_buffers(
    buffers: Sequence[MomentsBuffer], batches: Sequence[Tensor], ids: Sequence[str]
) -> list[Tensor]:
    """The metrics of the batches of each buffer; buffers of one layout and device share a call.

    Args:
        buffers: one for each layer and split.
        batches: the packed moments of each buffer, (n, size), which averages overwrite.
        ids: metrics of `ncfast.metrics.catalogue.OF_MOMENTS`.

    Returns:
        (n, len(ids)) float64 for each buffer.
    """
    groups: dict[tuple[Layout, torch.device], list[tuple[int, Tensor]]] = {}
    for number, (buffer, states) in enumerate(zip(buffers, batches, strict=True)):
        averages, layout = buffer.averaged(states)
        groups.setdefault((layout, buffer.device), []).append((number, averages))
    found: dict[int, Tensor] = {}
    for (layout, _), members in groups.items():
        numbers, parts = zip(*members, strict=True)
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        values = evaluate_states(joined, layout, ids).split([len(part) for part in parts])
        found.update(zip(numbers, values, strict=True))
    return [found[number] for number in range(len(buffers))]
