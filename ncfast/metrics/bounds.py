"""Bounds of the theory of neural collapse, computed (Sakamoto & Sato 2025, arXiv 2509.20829)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ncfast import _validate
from ncfast._arrays import Array
from ncfast.metrics.arguments import Features, as_inputs, check_not_moments
from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import Metric
from ncfast.moments import ClassMoments, check_mergeable, check_moments
from ncfast.ops.grouping import Labels


def trace_bound(inputs: MetricInputs) -> Tensor:
    """The generalisation bound with the total variance V_c of each class."""
    return (inputs.shares * inputs.margins().trace).sum(-1) + _nan_if_invalid(inputs)


def projected_bound(inputs: MetricInputs) -> Tensor:
    """The generalisation bound with the variance along w_c - w_k alone."""
    return inputs.shares @ inputs.projected + _nan_if_invalid(inputs)


def _nan_if_invalid(inputs: MetricInputs) -> Tensor:
    return inputs.nan_if_invalid + 0 * inputs.classifier.sum((-2, -1))


@torch.no_grad()
def generalization_bound(
    feats: Features,
    labels: Labels | None,
    weight: Array,
    bias: Array | None = None,
    *,
    projected: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Upper bound of the probability of error, from class means and variances.

    P(error) <= sum_c p_c sum_{k != c} 1 / (1 + max(m_ck, 0)^2 / V_ck), with the margin
    m_ck = (<w_c - w_k, mu_c> + b_c - b_k) / norm(w_c - w_k): a union bound over Cantelli's
    inequality (Theorem 3.2). It bounds the error of the distribution whose moments it is given:
    pass unseen data. It can exceed one.

    Args:
        feats: (N, D) features in floats of 16 to 64 bits, or with `projected=False` their
            `ClassMoments`.
        labels: (N,) integer class indices, or their `plan`; None beside moments.
        weight: (K, D) classifier rows.
        bias: (K,) its bias, zero when None.
        projected: V_ck is the variance along w_c - w_k, which Cantelli needs and which is far
            tighter; False takes the total variance V_c of the class, as the paper does.
        backend: see `class_moments`.

    Returns:
        () float64. Every class of the classifier counts as a possible error, absent ones too.
        Detached from the graph.

    Raises:
        ValueError, TypeError: see `class_moments`; or shapes of the classifier that do not fit.

    Example:
        >>> import torch, ncfast
        >>> feats = torch.tensor([[2.0, 0.0], [0.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> labels, weight = torch.tensor([0, 0, 1, 1]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> ncfast.generalization_bound(feats, labels, weight).item()  # 1/2 * 1/(1+1) + 1/2 * 0
        0.25
        >>> ncfast.generalization_bound(feats, labels, weight, projected=False).item()
        0.5
    """
    if projected:
        check_not_moments(feats, "the bound with projected=True")
    if weight is None:
        raise ValueError("Expected argument `weight` of shape (K, D) but got None.")
    inputs = as_inputs(feats, labels, weight=weight, bias=bias, backend=backend)
    return projected_bound(inputs) if projected else trace_bound(inputs)


@torch.no_grad()
def superfluous_information_bound(
    feats: Features,
    labels: Labels | None = None,
    *,
    sigma: float,
    form: Literal["logdet", "trace"] = "logdet",
    num_classes: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Upper bound of I(Z;X) - I(Z;Y) in nats for Z = g(X) + B_g sigma noise (Theorem 3.4).

    "logdet": 1/2 sum_c p_c logdet(I + Cov_c / (B_g^2 sigma^2)), by the smaller of the n_c x n_c
    and D x D Gram matrices. "trace": RNC1 / (2 sigma^2), which is larger and needs no covariance.
    B_g is the largest row norm.

    Args:
        feats: (N, D) features in floats of 16 to 64 bits, or with "trace" their `ClassMoments`.
        labels: (N,) integer class indices, or their `plan`; omitted with moments.
        sigma: standard deviation of the noise relative to B_g, positive.
        form: see above; "logdet" reads the class sizes: it synchronises with an accelerator.
        num_classes: K; None reads it off the labels.
        backend: see `class_moments`.

    Returns:
        () float64, in nats; NaN when all features are zero. Detached from the graph.

    Raises:
        ValueError, TypeError: see `class_moments`; `sigma` no positive number; an unknown `form`.

    Example:
        >>> import math, torch, ncfast
        >>> feats, labels = torch.tensor([[1.0], [0.0]]), torch.tensor([0, 0])
        >>> ncfast.superfluous_information_bound(feats, labels, sigma=0.5, form="trace").item()
        0.5
        >>> found = ncfast.superfluous_information_bound(feats, labels, sigma=0.5).item()
        >>> math.isclose(found, 0.5 * math.log(2))
        True
    """
    if form not in ("logdet", "trace"):
        raise ValueError(f"Expected argument `form` to be 'logdet' or 'trace' but got {form!r}.")
    sigma = _validate.check_number("sigma", sigma)
    if not 0 < sigma < math.inf:
        raise ValueError(
            f"Expected argument `sigma` to be positive and finite but got {sigma}. It is relative "
            "to the largest feature norm: 0.1, for example."
        )
    if form == "logdet":
        check_not_moments(feats, "the bound with form='logdet'")
    inputs = as_inputs(feats, labels, num_classes=num_classes, backend=backend)
    noise = inputs.moments.norm_max.square() * sigma**2
    if form == "trace":
        return inputs.moments.within_trace / (2 * noise)
    return _mean_log_determinant(*inputs.samples, inputs.moments, noise) / 2


def _mean_log_determinant(
    feats: Tensor, labels: Tensor, moments: ClassMoments, noise: Tensor
) -> Tensor:
    order = labels.to(torch.int64).argsort(stable=True)
    total = moments.norm_sum * 0
    shares = moments.counts.to(torch.float64) / moments.total
    classes = feats.index_select(0, order).split(moments.counts.tolist())  # reads the sizes
    for rows, mean, share in zip(classes, moments.means, shares, strict=True):
        if len(rows) == 0:
            continue
        residual = (rows.to(torch.float64) - mean) / (len(rows) * noise).sqrt()
        small = residual @ residual.T if len(rows) < rows.shape[1] else residual.T @ residual
        total = (
            total
            + share
            * torch.linalg.slogdet(
                small + torch.eye(len(small), dtype=small.dtype, device=small.device)
            )[1]
        )
    return total


def realised_gap(train: ClassMoments, test: ClassMoments) -> Tensor:
    """abs(V_c(test) - V_c(train)) of every class, (K,), detached; NaN where either has no sample.

    The realised gap between population and empirical variance. Theorem 4.1 says that it is
    O(1 / sqrt(n_c)); its constants are not known, so this is the number and not the bound.

    Args:
        train: moments of the training features, each around their own means.
        test: moments of unseen features, of the same K and D.

    Raises:
        ValueError: shapes or devices differ.

    Example:
        >>> import torch, ncfast
        >>> one = ncfast.class_moments(torch.tensor([[0.0], [2.0]]), torch.tensor([0, 0]))
        >>> two = ncfast.class_moments(torch.tensor([[0.0], [4.0]]), torch.tensor([0, 0]))
        >>> ncfast.realised_gap(one, two).tolist()
        [3.0]
    """
    for name, moments in (("train", train), ("test", test)):
        check_moments(moments, name)
    check_mergeable(train, test, "test")
    train, test = train.detach(), test.detach()
    gap = (test.class_variances - train.class_variances).abs()
    return torch.where(train.present & test.present, gap, torch.nan)


_T1 = "Sakamoto & Sato 2025, arXiv 2509.20829, Theorem 3.2"
_FORM = "sum_c p_c sum_{k != c} 1 / (1 + max(m_ck, 0)^2 / V_ck)"

METRICS = {
    "bound.generalization": Metric(
        projected_bound,
        f"{_FORM}, V_ck the variance of class c along w_c - w_k",
        _T1,
        "[0, K - 1]",
        "0: no error",
        tier="full",
        needs=frozenset({"moments", "classifier", "revisit"}),
        uses=frozenset({"margins", "spread"}),
    ),
    "bound.generalization_trace": Metric(
        trace_bound,
        f"{_FORM}, V_ck = V_c",
        _T1,
        "[0, K - 1]",
        "0: no error",
        tier="full",
        needs=frozenset({"moments", "classifier"}),
        uses=frozenset({"margins"}),
    ),
}
