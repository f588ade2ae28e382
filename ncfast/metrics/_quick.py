"""Metrics of the class moments in C++: at a thousand rows most of a call is Python otherwise."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from ncfast.backends.states import Layout, covered, gram_metrics, pack, why_not_gram
from ncfast.metrics._evidence import Evidence


def quick_values(names: Iterable[str], evidence: Evidence) -> dict[str, Tensor]:
    """Those of the metrics that the extension knows and may compute here, () float64 each."""
    moments = evidence.moments
    layout = Layout(moments.num_classes, moments.dim)
    if evidence.backend not in ("auto", "cpu") or why_not_gram(moments.means, layout):
        return {}
    ids = covered(layout, names)
    if not ids:
        return {}
    values = gram_metrics(pack(moments).unsqueeze(0), layout, ids)[0]
    return dict(zip(ids, values.unbind(), strict=True))
