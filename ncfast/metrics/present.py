"""Moments of the classes that have a sample alone: many classes of which few are present."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ncfast.metrics.inputs import MetricInputs
from ncfast.moments import ClassMoments
from ncfast.ops._raw import plain

# shared results that see absent classes too: a classifier may choose them
SEE_ABSENT = frozenset({"margins", "spread", "decisions"})
_MANY = 128  # so few classes cost little, present or not


def few_present(moments: ClassMoments) -> Tensor | None:
    """The classes present in any state, ascending; None where leaving out the rest saves nothing.

    On an accelerator finding them would wait: None.
    """
    if moments.num_classes <= _MANY or not plain(moments.counts):
        return None
    present = (moments.counts > 0).reshape(-1, moments.num_classes).any(0)
    index = present.nonzero().squeeze(1)
    return index if 0 < 2 * len(index) <= moments.num_classes else None


def of_present(inputs: MetricInputs) -> MetricInputs | None:
    """The same inputs without the rows of absent classes; None where that saves nothing.

    Metrics that leave absent classes out have the same values, at a cost that grows with the
    classes that are present.
    """
    moments = inputs.moments
    index = few_present(moments)
    if index is None:
        return None
    return replace(
        inputs,
        moments=ClassMoments(
            moments.counts.index_select(-1, index),
            moments.means.index_select(-2, index),
            moments.within_ss.index_select(-1, index),
            moments.norm_sum,
            moments.norm_max,
        ),
        labels=_renumbered(inputs.labels, index, moments.num_classes),
        weight=None if inputs.weight is None else inputs.weight.index_select(-2, index),
        bias=None if inputs.bias is None else inputs.bias.index_select(-1, index),
        _results={},
    )


def _renumbered(labels: Tensor | None, index: Tensor, number: int) -> Tensor | None:
    """Labels as positions in ``index``, which holds every class that a label names."""
    if labels is None:
        return None
    position = torch.zeros(number, dtype=torch.int64)
    position[index] = torch.arange(len(index))
    return position.index_select(0, labels.to(torch.int64))
