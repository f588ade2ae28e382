"""Checks of the arguments of metrics, and the `MetricInputs` made of them."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from ncfast import _validate
from ncfast._arrays import Array, as_tensor
from ncfast.metrics.inputs import MetricInputs
from ncfast.moments import ClassMoments, class_moments
from ncfast.ops.grouping import LabelPlan, Labels

Features: TypeAlias = Array | ClassMoments


def as_moments(
    feats: Features, labels: Labels | None, num_classes: int | None, backend: str
) -> ClassMoments:
    """Moments as given, without a graph, or of features and labels."""
    if isinstance(feats, ClassMoments):
        _check_beside_moments(feats, labels, num_classes)
        return feats.detach()
    if labels is None:
        raise ValueError(
            "Expected argument `labels` of shape (N,) beside a feature matrix but got None."
        )
    return class_moments(feats, labels, num_classes=num_classes, backend=backend)


def _check_beside_moments(
    moments: ClassMoments, labels: Labels | None, num_classes: int | None
) -> None:
    if labels is not None:
        raise ValueError(
            "Expected no argument `labels` beside a ClassMoments, which holds them already."
        )
    if num_classes is None:
        return
    if _validate.check_num_classes(num_classes) != moments.num_classes:
        raise ValueError(
            f"Expected argument `num_classes` to be {moments.num_classes}, as in the ClassMoments, "
            f"but got {num_classes}. Leave it out beside a ClassMoments."
        )


def check_not_moments(feats: Features, what: str) -> None:
    """Refuse moments where the features are read again.

    Raises:
        ValueError: `feats` is a ClassMoments; the message says what reads the features.
    """
    if isinstance(feats, ClassMoments):
        raise ValueError(
            "Expected argument `feats` to be features of shape (N, D) but got a ClassMoments: "
            f"moments are not enough, because {what} reads the features again. Pass features and "
            "labels."
        )


def as_inputs(
    feats: Features,
    labels: Labels | None,
    *,
    weight: Array | None = None,
    bias: Array | None = None,
    ood_feats: Array | None = None,
    num_classes: int | None = None,
    backend: str = "auto",
) -> MetricInputs:
    """Validated inputs, the classifier in float64."""
    if isinstance(feats, ClassMoments):
        inputs = MetricInputs(as_moments(feats, labels, num_classes, backend), backend=backend)
    else:
        feats = as_tensor("feats", feats)
        if labels is not None and not isinstance(labels, LabelPlan):
            labels = as_tensor("labels", labels)
            if num_classes is None and weight is not None:
                num_classes = _rows(weight)
        moments = as_moments(feats, labels, num_classes, backend)
        classes = labels.labels if isinstance(labels, LabelPlan) else labels
        inputs = MetricInputs(moments, feats.detach(), classes, backend=backend)
    if weight is not None or bias is not None:
        of = inputs.moments
        inputs.weight, inputs.bias = as_classifier(
            weight, bias, of.num_classes, of.dim, of.means.device
        )
    if ood_feats is not None:
        inputs.ood = _as_ood(ood_feats, inputs.moments)
    return inputs


def _rows(weight: Array) -> int | None:
    """K, as the classifier has it: the labels need not be read."""
    weight = as_tensor("weight", weight)
    return weight.shape[0] if weight.ndim == 2 else None


def as_classifier(
    weight: Array | None, bias: Array | None, number: int | None, dim: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Weight (K, D) and bias (K,) in float64.

    Args:
        weight: of a linear classifier.
        bias: of the same; None is none.
        number: K, or None where the weight tells it.
        dim: D.
        device: where both are to be.

    Raises:
        TypeError: one is not an array of real numbers.
        ValueError: a shape or device does not fit, or there is no weight.
    """
    if weight is None:
        raise ValueError("Expected argument `weight` beside `bias` but got None.")
    rows = as_tensor("weight", weight)
    if number is None and rows.ndim == 2:
        number = rows.shape[0]
    rows = _as_parameter("weight", rows, (number or 1, dim), "(K, D)", device)
    if bias is None:
        return rows, None
    return rows, _as_parameter("bias", as_tensor("bias", bias), (len(rows),), "(K,)", device)


def as_parameters(
    weight: Array | None, bias: Array | None, number: int, dim: int | None
) -> tuple[Tensor | None, Tensor | None]:
    """Weight (K, D) and bias (K,) as tensors that share their memory, of any dtype and device.

    Args:
        weight: of a linear classifier; None is none.
        bias: of the same; None is none.
        number: K.
        dim: D, or None where the weight tells it.

    Raises:
        TypeError: one is not an array of real numbers.
        ValueError: a shape does not fit, or there is a bias without a weight.
    """
    if weight is None:
        if bias is not None:
            raise ValueError("Expected argument `weight` beside `bias` but got None.")
        return None, None
    rows = as_tensor("weight", weight).detach()
    if dim is None:
        dim = rows.shape[-1] if rows.ndim else 1
    _check_parameter("weight", rows, (number, dim), "(K, D)")
    if bias is None:
        return rows, None
    offsets = as_tensor("bias", bias).detach()
    _check_parameter("bias", offsets, (number,), "(K,)")
    return rows, offsets


def _as_parameter(
    name: str, tensor: Tensor, shape: tuple[int, ...], axes: str, device: torch.device
) -> Tensor:
    _check_parameter(name, tensor, shape, axes)
    if tensor.device != device:
        raise ValueError(f"Expected argument `{name}` on {device} but got {tensor.device}.")
    return tensor.detach().to(torch.float64).resolve_neg()


def _check_parameter(name: str, tensor: Tensor, shape: tuple[int, ...], axes: str) -> None:
    if tensor.shape != shape:
        raise ValueError(
            f"Expected argument `{name}` of shape {axes} = {shape} but got {tuple(tensor.shape)}. "
            "Pass the classifier's own parameter, as in nn.Linear(D, K), and K as `num_classes`."
        )
    if tensor.is_complex():
        raise TypeError(f"Expected argument `{name}` to hold real numbers but got {tensor.dtype}.")


def _as_ood(value: Array, moments: ClassMoments) -> Tensor:
    ood = as_tensor("ood_feats", value)
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
    return ood.detach()
