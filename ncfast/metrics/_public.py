"""The calls a user makes: features and labels, or moments, in; 0-d tensors out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ncfast.backends import LabelPlan
from ncfast.metrics import variability
from ncfast.metrics.registry import METRICS, resolve
from ncfast.moments import ClassMoments, class_moments


def _as_moments(
    feats: Tensor | ClassMoments,
    labels: Tensor | LabelPlan | None,
    num_classes: int | None,
    backend: str,
) -> ClassMoments:
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


@torch.no_grad()
def rnc1(
    feats: Tensor | ClassMoments,
    labels: Tensor | LabelPlan | None = None,
    *,
    num_classes: int | None = None,
    scale: Literal["max", "mean"] = "max",
    backend: str = "auto",
) -> Tensor:
    """Rescaled within-class variability RNC1 = Tr(Sigma_W) / B_g^2.

    Sigma_W has the population normalisation 1/N. Zero means collapsed. Blind to the distance
    between classes, unlike `nc1`.

    Args:
        feats: (N, D) features in any floating dtype, or their `ClassMoments`.
        labels: (N,) integer class indices, or their `plan`; omitted with moments.
        num_classes: K; None reads it off the labels, which synchronises with an accelerator.
        scale: B_g is the largest row norm ("max", Sakamoto & Sato 2025, arXiv 2509.20829) or the
            mean row norm ("mean", which the paper's figures use; it can move the other way).
        backend: see `class_moments`.

    Returns:
        () float64 on the features' device; NaN when all features are zero.

    Raises:
        ValueError, TypeError: see `class_moments`; or an unknown `scale`.

    Example:
        >>> import torch, ncfast
        >>> feats = torch.tensor([[0.0, 2.0], [0.0, 1.0], [2.0, 0.0], [2.0, 0.0]])
        >>> ncfast.rnc1(feats, torch.tensor([0, 0, 1, 1]), num_classes=2).item()
        0.03125
    """
    if scale not in ("max", "mean"):
        raise ValueError(f"Expected argument `scale` to be 'max' or 'mean' but got {scale!r}.")
    moments = _as_moments(feats, labels, num_classes, backend)
    return variability.rescaled_variability(moments, scale)


def _one(
    family: str,
    variant: str,
    feats: Tensor | ClassMoments,
    labels: Tensor | LabelPlan | None,
    num_classes: int | None,
    backend: str,
) -> Tensor:
    metric = METRICS.get(f"{family}.{variant}")
    if metric is None:
        known = [id_.split(".")[1] for id_ in METRICS if id_.startswith(f"{family}.")]
        raise ValueError(f"Expected argument `variant` to be one of {known} but got {variant!r}.")
    with torch.no_grad():
        return metric(_as_moments(feats, labels, num_classes, backend))


def nc1(
    feats: Tensor | ClassMoments,
    labels: Tensor | LabelPlan | None = None,
    *,
    variant: str = "quotient",
    num_classes: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Within-class variability relative to the spread of the class means; zero means collapsed.

    Args:
        feats: (N, D) features in any floating dtype, or their `ClassMoments`.
        labels: (N,) integer class indices, or their `plan`; omitted with moments.
        variant: "quotient": Tr(Sigma_W) / Tr(Sigma_B), Sigma_B unweighted (Tirer, Huang &
            Niles-Weed 2023); "cdnv": see `cdnv`.
        num_classes: K; None reads it off the labels, which synchronises with an accelerator.
        backend: see `class_moments`.

    Returns:
        () float64; infinite or NaN when the class means coincide or only one class is present.

    Raises:
        ValueError, TypeError: see `class_moments`; or an unknown `variant`.

    Example:
        >>> import torch, ncfast
        >>> feats = torch.tensor([[0.0, 2.0], [0.0, 1.0], [2.0, 0.0], [2.0, 0.0]])
        >>> round(ncfast.nc1(feats, torch.tensor([0, 0, 1, 1])).item(), 4)
        0.08
    """
    return _one("nc1", variant, feats, labels, num_classes, backend)


def cdnv(
    feats: Tensor | ClassMoments,
    labels: Tensor | LabelPlan | None = None,
    *,
    num_classes: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Class-distance normalised variance, averaged over pairs of classes.

    Mean over c != k of (V_c + V_k) / (2 norm(mu_c - mu_k)^2) with V_c = E[norm(g - mu_c)^2 | c]
    (Galanti, Gyorgy & Hutter 2021). Builds a K x K matrix.

    Args:
        feats: (N, D) features in any floating dtype, or their `ClassMoments`.
        labels: (N,) integer class indices, or their `plan`; omitted with moments.
        num_classes: K; None reads it off the labels, which synchronises with an accelerator.
        backend: see `class_moments`.

    Returns:
        () float64; NaN when fewer than two classes are present.

    Raises:
        ValueError, TypeError: see `class_moments`.

    Example:
        >>> import torch, ncfast
        >>> feats = torch.tensor([[0.0, 2.0], [0.0, 1.0], [2.0, 0.0], [2.0, 0.0]])
        >>> ncfast.cdnv(feats, torch.tensor([0, 0, 1, 1])).item()
        0.02
    """
    return _one("nc1", "cdnv", feats, labels, num_classes, backend)


def nc2(
    feats: Tensor | ClassMoments,
    labels: Tensor | LabelPlan | None = None,
    *,
    variant: str = "condition",
    num_classes: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Geometry of the class means: distance to an orthogonal frame or a simplex ETF.

    Args:
        feats: (N, D) features in any floating dtype, or their `ClassMoments`.
        labels: (N,) integer class indices, or their `plan`; omitted with moments.
        variant: "condition": condition number of the uncentred means, 1 is an orthogonal frame of
            equal norms (Sakamoto & Sato 2025); the following are 0 at a simplex ETF, take means
            centred on the mean of class means, and go back to Papyan, Han & Donoho 2020:
            "equinorm": standard deviation over mean of their norms;
            "equiangular": mean of abs(cos + 1 / (K - 1)) over pairs;
            "etf_error": Frobenius distance of their normalised Gram matrix from that of the ETF.
        num_classes: K; None reads it off the labels, which synchronises with an accelerator.
        backend: see `class_moments`.

    Returns:
        () float64. Absent classes are left out. With fewer than two classes all but "condition"
        are NaN; "condition" is infinite for linearly dependent means.

    Raises:
        ValueError, TypeError: see `class_moments`; or an unknown `variant`.

    Example:
        >>> import torch, ncfast
        >>> round(ncfast.nc2(torch.eye(3), torch.arange(3), variant="etf_error").item(), 6)
        0.0
    """
    return _one("nc2", variant, feats, labels, num_classes, backend)


@torch.no_grad()
def collapse_metrics(
    feats_or_moments: Tensor | ClassMoments,
    labels: Tensor | LabelPlan | None = None,
    *,
    num_classes: int | None = None,
    which: str | Sequence[str] = "all",
    backend: str = "auto",
) -> dict[str, Tensor]:
    """Several collapse metrics from one pass over the features.

    Args:
        feats_or_moments: (N, D) features in any floating dtype, or their `ClassMoments`.
        labels: (N,) integer class indices, or their `plan`; omitted with moments.
        num_classes: K; None reads it off the labels, which synchronises with an accelerator.
        which: "all", a metric id ("nc1.cdnv"), a family ("nc2"), or a sequence of them.
        backend: see `class_moments`.

    Returns:
        A () float64 tensor for each metric id, on the features' device.

    Raises:
        ValueError, TypeError: see `class_moments`; or an unknown name in `which`.

    Example:
        >>> import torch, ncfast
        >>> values = ncfast.collapse_metrics(torch.eye(3), torch.arange(3), which=["rnc1", "nc2"])
        >>> list(values)[:3]
        ['rnc1.max', 'rnc1.mean', 'nc2.condition']
    """
    chosen = resolve(which)
    moments = _as_moments(feats_or_moments, labels, num_classes, backend)
    return {name: METRICS[name](moments) for name in chosen}
