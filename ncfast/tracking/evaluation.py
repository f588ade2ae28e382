"""Metrics of many states at once: a block of log points costs little more than one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ncfast.backends.states import Layout, covered, gram_metrics, why_not_gram
from ncfast.metrics._collect import define
from ncfast.metrics._evidence import Evidence
from ncfast.metrics.registry import OF_MOMENTS
from ncfast.moments import ClassMoments


@torch.no_grad()
def evaluate_states(states: Tensor, layout: Layout, ids: Sequence[str]) -> Tensor:
    """Metrics of each packed state; nothing is read on the host of what lies on an accelerator.

    On the CPU what follows from the means of few classes runs in C++. The rest takes all states in
    one sweep of vectorised operations, so that a block of log points costs as many launches as a
    single one.

    Args:
        states: (n, layout.size) float64.
        layout: of its rows.
        ids: metrics of `ncfast.metrics.registry.OF_MOMENTS`.

    Returns:
        (n, len(ids)) float64 on the states' device.
    """
    fast = [] if why_not_gram(states, layout) else covered(layout, ids)
    if len(fast) == len(ids):
        return gram_metrics(states, layout, ids)
    slow = [id_ for id_ in ids if id_ not in fast]
    # pairs of classes choose their way by looking at values, on the CPU
    by_state = states.device.type == "cpu" and any(OF_MOMENTS[id_].pair for id_ in slow)
    found = _one_by_one(states, layout, slow) if by_state else _vectorised(states, layout, slow)
    if not fast:
        return found
    order = [*fast, *slow]
    joined = torch.cat([gram_metrics(states, layout, fast), found], 1)
    return torch.stack([joined[:, order.index(id_)] for id_ in ids], 1)


def one_state(moments: ClassMoments, ids: Sequence[str]) -> Tensor:
    """The same for one state by the definitions themselves: the reference, (len(ids),)."""
    values = define({id_: OF_MOMENTS[id_] for id_ in ids}, Evidence(moments))
    return torch.stack([values[id_] for id_ in ids])


def _one_by_one(states: Tensor, layout: Layout, ids: Sequence[str]) -> Tensor:
    return torch.stack([one_state(layout.unpack(state), ids) for state in states])


def _vectorised(states: Tensor, layout: Layout, ids: Sequence[str]) -> Tensor:
    def function(*parts: Tensor) -> Tensor:
        return one_state(ClassMoments(*parts), ids)

    with warnings.catch_warnings():
        # an in-place operation without a batching rule runs state by state, and torch says so
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        return torch.func.vmap(function)(*layout.split(states))
