"""`collapse_metrics` and `describe`: the whole catalogue in one call, and what is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ncfast.metrics.arguments import as_inputs
from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import Metric
from ncfast.metrics.registry import CATALOGUE, STANDALONE, resolve
from ncfast.moments import ClassMoments
from ncfast.ops import LabelPlan


@torch.no_grad()
def collapse_metrics(
    feats_or_moments: Tensor | ClassMoments,
    labels: Tensor | LabelPlan | None = None,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    ood_feats: Tensor | None = None,
    which: str | Sequence[str] = "all",
    num_classes: int | None = None,
    backend: str = "auto",
) -> dict[str, Tensor]:
    """Every collapse metric whose inputs are present, from one pass over the features or two.

    Intermediate results are shared: one sweep over the pairs of classes, one singular value
    decomposition of the means, one scatter matrix, whatever the number of metrics.

    Args:
        feats_or_moments: (N, D) features in any floating dtype, or their `ClassMoments`, which
            leaves out the metrics that read the features again.
        labels: (N,) integer class indices, or their `plan`; omitted with moments.
        weight: (K, D) rows of the linear classifier, for NC3, NC4 and the bounds.
        bias: (K,) its bias; zero when None, except for nc3.bias_collapse, which needs one.
        ood_feats: (M, D) features of inputs from outside the distribution, for NC5.
        which: "all", an id ("nc1.cdnv"), a family ("nc2"), a tier of cost ("lite", "standard",
            "full", each with the cheaper ones), or a sequence of them.
        num_classes: K; None takes the rows of `weight`, or reads it off the labels, which
            synchronises with an accelerator.
        backend: see `class_moments`.

    Returns:
        A () float64 tensor for each metric id, on the features' device. Detached from the graph.

    Raises:
        ValueError, TypeError: see `class_moments`; an unknown name in `which`; an id asked for by
            name whose inputs are missing; a classifier or `ood_feats` of the wrong shape.

    Example:
        >>> import torch, ncfast
        >>> values = ncfast.collapse_metrics(torch.eye(3), torch.arange(3), which=["rnc1", "nc2"])
        >>> list(values)[:3]
        ['rnc1.max', 'rnc1.mean', 'nc2.condition']
    """
    chosen = resolve(which, CATALOGUE)
    inputs = as_inputs(
        feats_or_moments,
        labels,
        weight=weight,
        bias=bias,
        ood_feats=ood_feats,
        num_classes=num_classes,
        backend=backend,
    )
    for name in [which] if isinstance(which, str) else which:
        metric = CATALOGUE.get(name)
        if metric is not None and not metric.usable(inputs):
            raise ValueError(
                f"Expected {' and '.join(map(_argument, metric.arguments))} for the metric "
                f"{name!r} but they are not all there."
            )
    metrics = {name: CATALOGUE[name] for name in chosen if CATALOGUE[name].usable(inputs)}
    return evaluate(metrics, inputs)


def evaluate(metrics: Mapping[str, Metric], inputs: MetricInputs) -> dict[str, Tensor]:
    """The value of every metric, with the work they have in common done once."""
    inputs.planned = frozenset[str]().union(*(metric.uses for metric in metrics.values()))
    return {name: metric.function(inputs) for name, metric in metrics.items()}


def _argument(need: str) -> str:
    names = {"feats": "features and labels (moments are not enough)", "ood": "`ood_feats`"}
    return names.get(need, f"`{need}`")


@dataclass(frozen=True)
class Description:
    """What `describe` returns.

    Attributes:
        id: the metric's id.
        formula: its definition, in the notation of docs/metrics.md.
        source: where it comes from.
        range: the values it takes.
        direction: what a value says, such as "0: collapsed".
        variants: the other ids of its family.
        tier: "lite", "standard" or "full"; "" for quantities outside `collapse_metrics`.
        needs: inputs beyond the class moments.
        stalls: whether computing it on CUDA waits for the device.
        call: the function that computes it.
    """

    id: str
    formula: str
    source: str
    range: str
    direction: str
    variants: tuple[str, ...]
    tier: str
    needs: tuple[str, ...]
    stalls: bool
    call: str


def describe(id_: str) -> Description:
    """Formula, source, range, direction and variants of a metric.

    Args:
        id_: an id such as "nc1.pinv".

    Raises:
        ValueError: the id is unknown; the message lists the known ones.

    Example:
        >>> import ncfast
        >>> ncfast.describe("nc1.quotient").direction
        '0: collapsed'
    """
    if id_ in CATALOGUE:
        m = CATALOGUE[id_]
        return Description(
            id_,
            m.formula,
            m.source,
            m.range,
            m.direction,
            m.variants,
            m.tier,
            m.arguments,
            m.stalls,
            "ncfast.collapse_metrics",
        )
    if id_ in STANDALONE:
        s = STANDALONE[id_]
        return Description(
            id_, s.formula, s.source, s.range, s.direction, (), "", (), False, s.call
        )
    known = ", ".join([*CATALOGUE, *STANDALONE])
    raise ValueError(f"Expected the id of a metric but got {id_!r}. Known ids: {known}.")
