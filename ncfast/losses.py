"""Losses that pull features towards neural collapse, or push them away from it.

They are metrics with a gradient. All of it flows through the class moments, whose backward pass
reads the features once and writes their gradient once. Everything else in this package returns
numbers without a graph.

A loss of a mini-batch sees the class means of that batch. With few rows to a class these are far
from the means of the data, and the variance around them is too small by (n - 1) / n. ``context``
takes moments of earlier rows, which count as constants: the loss is then that of both together.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ncfast._arrays import Array, as_tensor
from ncfast.metrics.catalogue import CATALOGUE
from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.variability import rescaled_variability
from ncfast.moments import ClassMoments, check_mergeable, check_moments, class_moments
from ncfast.ops.grouping import LabelPlan, Labels

__all__ = ["cdnv", "etf_error", "metric", "rnc1", "within_class_variance"]

# what a metric may need if it is to be differentiable: nothing that reads the features again
_OF_MOMENTS = frozenset({"moments", "classifier", "bias"})


def within_class_variance(
    feats: Tensor,
    labels: Labels,
    *,
    num_classes: int | None = None,
    context: ClassMoments | None = None,
    backend: str = "auto",
) -> Tensor:
    """Tr(Sigma_W), the mean squared distance of the rows from the mean of their class.

    Args:
        feats: (N, D) features with a graph, float16, bfloat16, float32 or float64.
        labels: (N,) integer classes in 0..K-1, on the same device; or their `ncfast.plan`.
        num_classes: K. None takes the context's, the plan's, or the largest label plus one, which
            waits for an accelerator.
        context: `ncfast.ClassMoments` of earlier rows with the same K and D, constant in the
            gradient, to be merged with those of ``feats``.
        backend: see `ncfast.class_moments`.

    Returns:
        (), float64, differentiable with respect to ``feats``.

    Raises:
        TypeError: a dtype that cannot be used.
        ValueError: shapes, devices or labels that do not fit.
        RuntimeError: when a second derivative is asked for.

    Example:
        >>> import torch, ncfast
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0]], requires_grad=True)
        >>> ncfast.losses.within_class_variance(x, torch.tensor([0, 0])).backward()
        >>> x.grad.tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """
    return _moments(feats, labels, num_classes, context, backend).within_trace


def rnc1(
    feats: Tensor,
    labels: Labels,
    *,
    num_classes: int | None = None,
    context: ClassMoments | None = None,
    scale: Literal["max", "mean"] = "max",
    differentiate_scale: bool = False,
    backend: str = "auto",
) -> Tensor:
    """RNC1 = Tr(Sigma_W) / B_g^2 of Sakamoto & Sato 2025, arXiv 2509.20829; see `ncfast.rnc1`.

    Args:
        feats: as in `within_class_variance`.
        labels: likewise.
        num_classes: likewise.
        context: likewise.
        scale: B_g is the largest norm of a row ("max", the paper's) or the mean norm ("mean").
        differentiate_scale: whether B_g has a gradient as well. By default it is a constant. With
            a gradient the loss also falls where one row grows (scale="max"), or where all features
            move away from the origin together (scale="mean"); the classes need not contract.
        backend: see `ncfast.class_moments`.

    Returns:
        (), float64, differentiable with respect to ``feats``.

    Raises:
        TypeError: a dtype that cannot be used.
        ValueError: shapes, devices or labels that do not fit; an unknown ``scale``.
        RuntimeError: when a second derivative is asked for.

    Example:
        >>> import torch, ncfast
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0]], requires_grad=True)
        >>> loss = ncfast.losses.rnc1(x, torch.tensor([0, 0]))
        >>> loss.backward()
        >>> round(loss.item(), 4), x.grad[:, 0].tolist() == [-1 / 9, 1 / 9]
        (0.1111, False)
    """
    if scale not in ("max", "mean"):
        raise ValueError(f"Expected argument `scale` to be 'max' or 'mean' but got {scale!r}.")
    moments = _moments(feats, labels, num_classes, context, backend)
    norm = moments.norm_max if scale == "max" else moments.norm_mean
    norm = norm if differentiate_scale else norm.detach()
    return rescaled_variability(moments.within_trace, norm)


def cdnv(
    feats: Tensor,
    labels: Labels,
    *,
    num_classes: int | None = None,
    context: ClassMoments | None = None,
    backend: str = "auto",
) -> Tensor:
    """Mean class-distance normalised variance over pairs of classes, Galanti et al. 2022.

    (V_c + V_k) / (2 norm(mu_c - mu_k)^2), the metric "nc1.cdnv". The arguments, the result and the
    errors are those of `within_class_variance`. It is NaN with fewer than two classes in sight.

    Example:
        >>> import torch, ncfast
        >>> x = torch.tensor([[1.0], [3.0], [7.0], [9.0]], requires_grad=True)
        >>> ncfast.losses.cdnv(x, torch.tensor([0, 0, 1, 1])).item()
        0.027777777777777776
    """
    return metric("nc1.cdnv", _moments(feats, labels, num_classes, context, backend))


def etf_error(
    feats: Tensor,
    labels: Labels,
    *,
    num_classes: int | None = None,
    context: ClassMoments | None = None,
    backend: str = "auto",
) -> Tensor:
    """Distance of the class means from a simplex ETF: the metric "nc2.etf_error".

    norm_F(G / norm_F(G) - E) with G the Gram matrix of the centred class means, Papyan, Han &
    Donoho 2020, Zhu et al. 2021. The arguments, the result and the errors are those of
    `within_class_variance`. Its gradient is zero where it is zero.

    Example:
        >>> import torch, ncfast
        >>> x = torch.eye(3, requires_grad=True)
        >>> ncfast.losses.etf_error(x, torch.arange(3)).item() < 1e-12
        True
    """
    return metric("nc2.etf_error", _moments(feats, labels, num_classes, context, backend))


def metric(
    id: str,
    moments: ClassMoments,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Any metric that is arithmetic on class moments and a classifier, with its gradient.

    Args:
        id: of `ncfast.describe`, such as "nc1.quotient".
        moments: ``class_moments(..., differentiable=True)``, alone or merged with other moments.
        weight: (K, D) of a linear classifier, for metrics that need one; may have a graph too.
        bias: (K,), likewise.

    Returns:
        (), float64, with the graph of ``moments``, ``weight`` and ``bias``.

    Raises:
        TypeError: ``moments`` is no `ncfast.ClassMoments`; ``weight`` or ``bias`` is no dense
            tensor of real numbers.
        ValueError: the id is unknown; the metric reads the features again, so that moments do not
            give its gradient; an input that it needs is missing, or has another shape or device.

    Example:
        >>> import torch, ncfast
        >>> x = torch.randn(20, 4, requires_grad=True)
        >>> y = torch.arange(20) % 2
        >>> moments = ncfast.class_moments(x, y, num_classes=2, differentiable=True)
        >>> ncfast.losses.metric("nc1.quotient", moments).backward()
        >>> x.grad.shape
        torch.Size([20, 4])
    """
    check_moments(moments, "moments")
    found = CATALOGUE.get(id) if isinstance(id, str) else None
    if found is None or not found.needs <= _OF_MOMENTS:
        known = ", ".join(id_ for id_, m in CATALOGUE.items() if m.needs <= _OF_MOMENTS)
        why = "no metric has that id" if found is None else "it reads the features again"
        raise ValueError(
            f"Expected argument `id` to name a metric with a gradient but got {id!r}: {why}. "
            f"These have one: {known}."
        )
    for name, given in (("weight", weight), ("bias", bias)):
        if name in found.arguments and given is None:
            raise ValueError(
                f"Expected argument `{name}`, which {id!r} needs, but got None. Pass the "
                "classifier's own parameter."
            )
    # the reference: it is plain torch, so that torch differentiates it
    inputs = MetricInputs(
        moments,
        weight=_parameter("weight", weight, moments, moments.means.shape[-2:]),
        bias=_parameter("bias", bias, moments, moments.means.shape[-2:-1]),
        planned=found.uses,
        backend="reference",
    )
    return found.function(inputs)


def _parameter(
    name: str, tensor: Tensor | None, moments: ClassMoments, shape: torch.Size
) -> Tensor | None:
    if tensor is None:
        return None
    tensor = as_tensor(name, tensor)
    if tensor.shape != shape or tensor.device != moments.means.device:
        raise ValueError(
            f"Expected argument `{name}` of shape {tuple(shape)} on {moments.means.device} but got "
            f"{tuple(tensor.shape)} on {tensor.device}."
        )
    if tensor.is_complex():
        raise TypeError(f"Expected argument `{name}` to hold real numbers but got {tensor.dtype}.")
    return tensor.to(torch.float64)


def _moments(
    feats: Tensor,
    labels: Array | LabelPlan,
    num_classes: int | None,
    context: ClassMoments | None,
    backend: str,
) -> ClassMoments:
    if context is not None:
        check_moments(context, "context")
        num_classes = context.num_classes if num_classes is None else num_classes
    moments = class_moments(
        feats, labels, num_classes=num_classes, backend=backend, differentiable=True
    )
    if context is None:
        return moments
    check_mergeable(moments, context, "context")
    return moments.merge(context.detach())
