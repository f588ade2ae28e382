"""NC5: whether features from outside the distribution are orthogonal to the class means."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ncfast._validate import is_on_host
from ncfast.metrics.inputs import MetricInputs, given
from ncfast.metrics.metric import Metric
from ncfast.metrics.rank import total_axes
from ncfast.ops.blocks import rows_of


def ood_cosine(inputs: MetricInputs) -> Tensor:
    """Mean over classes of abs(cos(mu_c, mean of the out-of-distribution features))."""
    outside = inputs.outside
    norms = torch.linalg.vector_norm(inputs.moments.means, dim=-1)
    cosine = (inputs.moments.means @ outside / norms).abs() / torch.linalg.vector_norm(outside)
    return torch.where(inputs.present, cosine, 0.0).sum(-1) / inputs.number


def neco_scores(inputs: MetricInputs, rows: Tensor) -> Tensor:
    """norm(P (g - mu_G)) / norm(g - mu_G), P onto the top P - 1 principal components, (M,)."""
    # only the first K - 1 can be among the top P - 1
    if is_on_host(rows) and bool(inputs.number > inputs.moments.dim):
        return rows.new_ones(len(rows), dtype=torch.float64)
    _, vectors = inputs.once(total_axes)
    vectors = vectors.narrow(0, 0, min(inputs.moments.num_classes - 1, len(vectors)))
    index = torch.arange(len(vectors), device=rows.device)
    among = (index < inputs.number - 1).to(vectors.dtype)
    kept = (vectors * among.unsqueeze(1)).T.clone(memory_format=torch.contiguous_format)
    centre = inputs.moments.global_mean
    scores = []
    for block in rows_of(rows):
        centred = block - centre
        inside = torch.linalg.vector_norm(centred @ kept, dim=1)
        scores.append(inside / torch.linalg.vector_norm(centred, dim=1))
    # P - 1 >= D components are everything: all scores are one, whatever the rounding says
    return torch.where(inputs.number > inputs.moments.dim, 1.0, torch.cat(scores))


def _scores(inputs: MetricInputs) -> tuple[Tensor, Tensor]:
    if inputs.sums is not None:
        return given(inputs.sums.scores, "ood_feats")
    feats, _ = inputs.samples
    return neco_scores(inputs, feats), neco_scores(inputs, given(inputs.ood, "ood_feats"))


def area_under_roc(positive: Tensor, negative: Tensor) -> Tensor:
    """P(a positive score exceeds a negative one), ties counting one half, ()."""
    ordered = negative.sort().values
    below = torch.searchsorted(ordered, positive)
    up_to = torch.searchsorted(ordered, positive, right=True)
    return (below + up_to).sum(dtype=torch.float64) / (2 * len(positive) * len(negative))


def false_positive_rate(positive: Tensor, negative: Tensor, recall: float = 0.95) -> Tensor:
    """Share of negatives at or above the threshold that keeps this share of positives, ()."""
    kept = math.ceil(recall * len(positive))
    threshold = positive.sort(descending=True).values.narrow(0, kept - 1, 1)
    return (negative >= threshold).sum(dtype=torch.float64) / len(negative)


def neco_auroc(inputs: MetricInputs) -> Tensor:
    """Area under the ROC curve of the NECO score, features against `ood_feats`."""
    return _undefined(inputs, area_under_roc(*inputs.once(_scores)))


def neco_fpr95(inputs: MetricInputs) -> Tensor:
    """False positive rate of the NECO score at 95 % recall of the features."""
    return _undefined(inputs, false_positive_rate(*inputs.once(_scores)))


def _undefined(inputs: MetricInputs, value: Tensor) -> Tensor:
    value = torch.where(inputs.number > 1, value, torch.nan)
    return value + inputs.nan_if_invalid + 0 * inputs.outside.sum()


_NECO = "Ben Ammar et al. 2024 (NECO), arXiv 2310.06823"
_SCORE = "norm(P (g - mu_G)) / norm(g - mu_G), P onto the top P - 1 principal components"

METRICS = {
    "nc5.ood_cosine": Metric(
        ood_cosine,
        "mean over classes of abs(cos(mu_c, mean of ood_feats))",
        _NECO,
        "[0, 1]",
        "0: orthogonal",
        needs=frozenset({"moments", "ood"}),
    ),
    "nc5.neco_auroc": Metric(
        neco_auroc,
        f"area under the ROC curve, features against ood_feats, of {_SCORE}",
        _NECO,
        "[0, 1]",
        "1: told apart",
        tier="full",
        needs=frozenset({"moments", "scatter", "revisit", "ood"}),
        uses=frozenset({"scatter", "scores"}),
        synchronizes=True,
    ),
    "nc5.neco_fpr95": Metric(
        neco_fpr95,
        f"share of ood_feats above the 5 % quantile of the features, of {_SCORE}",
        _NECO,
        "[0, 1]",
        "0: told apart",
        tier="full",
        needs=frozenset({"moments", "scatter", "revisit", "ood"}),
        uses=frozenset({"scatter", "scores"}),
        synchronizes=True,
    ),
}
