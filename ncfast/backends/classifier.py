"""Metrics of a linear classifier beside the class means, by the C++ extension."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ncfast.backends import cpu
from ncfast.backends.direct import plain
from ncfast.backends.states import Layout

# the order of csrc/classifier_metrics.cpp
_ROWS = (
    "nc2.equinorm_weight",
    "nc3.self_duality",
    "nc3.self_duality_squared",
    "nc3.cosine",
    "nc3.uniform_duality",
    "nc3.uniform_duality_cosine",
    "nc3.weight_sum",
)
_PRODUCTS = ("nc3.cross_coherence", "nc2.etf_error_weight_raw", "nc2.etf_error_weight")
CLASSIFIER_METRICS = (*_ROWS, "nc3.bias_collapse", "nc5.ood_cosine", *_PRODUCTS)


def classifier_metrics(
    state: Tensor,
    layout: Layout,
    ids: Sequence[str],
    *,
    weight: Tensor | None,
    bias: Tensor | None,
    outside: Tensor | None,
) -> Tensor | None:
    """Metrics of one row of packed moments and what is given beside it.

    Args:
        state: (size,) float64, of which `why_not_gram` has nothing to say.
        layout: of the row.
        ids: a choice of `CLASSIFIER_METRICS` whose inputs are there.
        weight: (K, D) float64 rows, or None.
        bias: (K,) float64, or None.
        outside: (D,) float64, the mean of features from elsewhere.

    Returns:
        (len(ids),) float64; None if something given is not a plain tensor on the CPU.
    """
    given = [None if t is None else t.contiguous() for t in (weight, bias, outside)]
    if not all(tensor is None or plain(tensor) for tensor in given):
        return None
    assert cpu.extension is not None
    out = cpu._FLOAT64.new_empty(len(CLASSIFIER_METRICS))
    cpu.extension.classifier_metrics(
        state.data_ptr(),
        layout.classes,
        layout.dim,
        layout.integer_counts,
        *(0 if tensor is None else tensor.data_ptr() for tensor in given),
        any(id_ in _PRODUCTS for id_ in ids),
        out.data_ptr(),
    )
    columns = torch.tensor([CLASSIFIER_METRICS.index(id_) for id_ in ids], device="cpu")
    return out.index_select(0, columns)
