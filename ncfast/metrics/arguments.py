"""Checks of the arguments of metrics, and the `MetricInputs` made of them."""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast import _validate
from ncfast.metrics.inputs import MetricInputs
from ncfast.moments import ClassMoments, class_moments
from ncfast.ops import LabelPlan


def as_moments(
    feats: Tensor | ClassMoments,
    labels: Tensor | LabelPlan | None,
    num_classes: int | None,
    backend: str,
) -> ClassMoments:
    """Moments as given, or of features and labels."""
    if isinstance(feats, ClassMoments):
        if labels is not None:
            raise ValueError(
                "Expected no argument `labels` beside a ClassMoments, which holds them already."
            )
        return feats
    if labels is None:
        raise ValueError(
            "Expected argument `labels` of shape (N,) beside a feature matrix but got None."
        )
    return class_moments(feats, labels, num_classes=num_classes, backend=backend)


def as_inputs(
    feats: Tensor | ClassMoments,
    labels: Tensor | LabelPlan | None,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    ood_feats: Tensor | None = None,
    num_classes: int | None = None,
    backend: str = "auto",
) -> MetricInputs:
    """Validated inputs, the classifier in float64."""
    if num_classes is None and weight is not None and weight.ndim == 2:
        num_classes = weight.shape[0]  # the classifier knows K: no need to read the labels
    moments = as_moments(feats, labels, num_classes, backend)
    check_classifier(weight, bias, moments)
    _check_ood(ood_feats, moments)
    given = isinstance(feats, ClassMoments)
    if isinstance(labels, LabelPlan):
        labels = labels.labels
    return MetricInputs(
        moments,
        feats=None if isinstance(feats, ClassMoments) else feats.detach(),
        labels=None if given else labels,
        weight=_float64(weight),
        bias=_float64(bias),
        ood=None if ood_feats is None else ood_feats.detach(),
        backend=backend,
    )


def _float64(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().to(torch.float64).resolve_neg()


def check_classifier(weight: Tensor | None, bias: Tensor | None, moments: ClassMoments) -> None:
    """Check that weight is (K, D) and bias (K,), on the moments' device.

    Raises:
        ValueError: a shape or device does not fit, or there is a bias without a weight.
    """
    if weight is None:
        if bias is not None:
            raise ValueError("Expected argument `weight` beside `bias` but got None.")
        return
    _check("weight", weight, (moments.num_classes, moments.dim), "(K, D)", moments)
    if bias is not None:
        _check("bias", bias, (moments.num_classes,), "(K,)", moments)


def check_classifier_shape(
    weight: Tensor | None, bias: Tensor | None, num_classes: int, dim: int | None
) -> None:
    """Check that weight is (K, D), any D where it is None, and bias (K,).

    Raises:
        ValueError: a shape does not fit, or there is a bias without a weight.
    """
    if weight is None:
        if bias is not None:
            raise ValueError("Expected argument `weight` beside `bias` but got None.")
        return
    width = weight.shape[-1] if dim is None and weight.ndim else dim
    _check_shape("weight", weight, (num_classes, width or 1), "(K, D)")
    if bias is not None:
        _check_shape("bias", bias, (num_classes,), "(K,)")


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], axes: str) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(
            f"Expected argument `{name}` of shape {axes} = {shape} but got {tuple(tensor.shape)}. "
            "Pass the classifier's own parameter, as in nn.Linear(D, K), and K as `num_classes`."
        )


def _check(
    name: str, tensor: Tensor, shape: tuple[int, ...], axes: str, moments: ClassMoments
) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(
            f"Expected argument `{name}` of shape {axes} = {shape} but got {tuple(tensor.shape)}. "
            "Pass the classifier's own parameter, as in nn.Linear(D, K), and K as `num_classes`."
        )
    if tensor.device != moments.means.device:
        raise ValueError(
            f"Expected argument `{name}` on {moments.means.device} but got {tensor.device}."
        )


def _check_ood(ood: Tensor | None, moments: ClassMoments) -> None:
    if ood is None:
        return
    if ood.ndim != 2 or ood.shape[1] != moments.dim or ood.shape[0] == 0:
        raise ValueError(
            f"Expected argument `ood_feats` of shape (M, D) with D = {moments.dim} and M > 0 but "
            f"got {tuple(ood.shape)}."
        )
    if ood.dtype not in _validate.FEATURE_DTYPES:
        raise TypeError(f"Expected argument `ood_feats` to be floating point but got {ood.dtype}.")
    if ood.device != moments.means.device:
        raise ValueError(
            f"Expected argument `ood_feats` on {moments.means.device} but got {ood.device}."
        )
