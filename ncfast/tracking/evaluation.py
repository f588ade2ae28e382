"""Metrics of many states at once: a block of log points costs little more than one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ncfast.metrics.catalogue import OF_MOMENTS
from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import evaluate
from ncfast.ops.states import Layout


@torch.no_grad()
def evaluate_states(states: Tensor, layout: Layout, ids: Sequence[str]) -> Tensor:
    """Metrics of each packed state; nothing is read on the host of what lies on an accelerator.

    Args:
        states: (n, layout.size) float64.
        layout: of its rows.
        ids: metrics of `ncfast.metrics.catalogue.OF_MOMENTS`.

    Returns:
        (n, len(ids)) float64 on the states' device.
    """
    chosen = {id_: OF_MOMENTS[id_] for id_ in ids}
    values = evaluate(chosen, MetricInputs(layout.unpack(states)))
    return torch.stack([values[id_] for id_ in ids], 1)
