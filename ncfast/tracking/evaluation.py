"""Evaluates the metrics of many packed states at once, which costs little more than one state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ncfast.metrics.catalogue import CATALOGUE
from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import evaluate
from ncfast.moments import ClassMoments
from ncfast.ops.states import Layout
from ncfast.tracking.buffer import MomentsBuffer


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
