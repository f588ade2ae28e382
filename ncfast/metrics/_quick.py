"""Metrics of the class moments in C++: at a thousand rows most of a call is Python otherwise."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ncfast.backends.classifier import CLASSIFIER_METRICS, classifier_metrics
from ncfast.backends.states import Layout, covered, gram_metrics, pack, why_not_gram
from ncfast.metrics._evidence import Evidence


def quick_values(names: Sequence[str], evidence: Evidence) -> dict[str, Tensor]:
    """Those of the metrics that the extension knows and may compute here, () float64 each."""
    moments = evidence.moments
    layout = Layout(moments.num_classes, moments.dim)
    if evidence.backend not in ("auto", "cpu") or why_not_gram(moments.means, layout):
        return {}
    ids = covered(layout, names)
    beside = [name for name in names if name in CLASSIFIER_METRICS]
    if not ids and not beside:
        return {}
    state = pack(moments)
    found = gram_metrics(state.unsqueeze(0), layout, ids)[0].unbind() if ids else ()
    values = dict(zip(ids, found, strict=True))
    more = _beside(state, layout, beside, evidence) if beside else None
    return values if more is None else values | dict(zip(beside, more.unbind(), strict=True))


def _beside(state: Tensor, layout: Layout, ids: Sequence[str], evidence: Evidence) -> Tensor | None:
    return classifier_metrics(
        state,
        layout,
        ids,
        weight=evidence.weight,
        bias=evidence.bias,
        outside=evidence.outside if "nc5.ood_cosine" in ids else None,
    )
