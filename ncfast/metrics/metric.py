"""`Metric`: a definition, what it needs and what it costs; `evaluate` computes several.

Of many classes of which few are present, only those present are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ncfast.metrics.inputs import MetricInputs
from ncfast.moments import ClassMoments
from ncfast.ops._raw import plain
from ncfast.ops.scalars import as_tensor, as_tensors

Tier = Literal["lite", "standard", "full"]
TIERS: tuple[Tier, ...] = ("lite", "standard", "full")


@dataclass(frozen=True)
class Metric:
    """One entry of the catalogue; call it on `ClassMoments` or `MetricInputs`.

    Attributes:
        function: the pure function behind it. On a CPU it may get a `Scalar` for a 0-d tensor, and
            return one; a call of the metric returns a tensor.
        formula: its definition, in the notation of docs/metrics.md.
        source: where it comes from.
        range: the values it takes.
        direction: what a value says.
        tier: "lite" costs O(K D) beyond the moments, "standard" O(K D min(K, D)), "full" more: a
            second pass over the features, all pairs of classes, or a decomposition.
        needs: the inputs it reads: "moments", "classifier", "bias", "scatter" (Sigma_W, whole or in
            some directions), "revisit" (the features again, once the moments are known), "ood".
        uses: shared results that it reads, so that a call can compute them together: "scatter" (the
            whole D x D matrix), "margins" (of the classifier at the class means), "spread" (the
            variances along differences of the classifier's rows), "decisions" (of the classifier
            and the nearest mean), "scores" (NECO's, of every row), "pairs.cdnv" and the like (a
            statistic of pairs of classes), "products" (of the class means with each other),
            "row_products" (of the classifier's rows with each other), "spectrum" and
            "centred_spectrum" (singular values of the means). A metric that does not list one
            gives the same value and is slower.
        synchronizes: whether it waits for the device on CUDA, because a library routine does.
        variants: the other ids of its family; the catalogue fills them in.
    """

    function: Callable[[MetricInputs], Tensor]
    formula: str
    source: str
    range: str
    direction: str
    tier: Tier = "lite"
    needs: frozenset[str] = frozenset({"moments"})
    uses: frozenset[str] = frozenset()
    synchronizes: bool = False
    variants: tuple[str, ...] = ()

    def __call__(self, source: ClassMoments | MetricInputs) -> Tensor:
        """The value, float64, with the leading axes of the moments: () for one state."""
        inputs = source if isinstance(source, MetricInputs) else MetricInputs(source.detach())
        return as_tensor(self.function(inputs))

    @property
    def stalls(self) -> bool:
        """The former name of `synchronizes`."""
        return self.synchronizes

    def usable(self, inputs: MetricInputs) -> bool:
        """Whether every input it needs is there."""
        return self.needs <= inputs.given

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of a call that hold what it needs beyond the moments."""
        names = {_ARGUMENTS[need]: None for need in _ARGUMENTS if need in self.needs}
        return tuple(names)


_ARGUMENTS = {
    "classifier": "weight",
    "bias": "bias",
    "ood": "ood",
    "scatter": "feats",
    "revisit": "feats",
}


_NOTHING: frozenset[str] = frozenset()


def evaluate(metrics: Mapping[str, Metric], inputs: MetricInputs) -> dict[str, Tensor]:
    """The value of every metric; shared results are computed once."""
    few = of_present(inputs)
    if few is None:
        return _evaluate(metrics, inputs)
    whole = {name: m for name, m in metrics.items() if m.uses & SEE_ABSENT}
    rest = {name: m for name, m in metrics.items() if name not in whole}
    found = _evaluate(whole, inputs) | _evaluate(rest, few)
    return {name: found[name] for name in metrics}


def _evaluate(metrics: Mapping[str, Metric], inputs: MetricInputs) -> dict[str, Tensor]:
    inputs.planned = _NOTHING.union(*[metric.uses for metric in metrics.values()])
    found = as_tensors([metric.function(inputs) for metric in metrics.values()])
    return dict(zip(metrics, found, strict=True))


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
