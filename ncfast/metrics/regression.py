"""Neural regression collapse: `regression_metrics` of features, targets and the last layer."""

from __future__ import annotations

import math
from typing import SupportsFloat

import torch
from torch import Tensor

from ncfast._arrays import Array, as_tensor
from ncfast._validate import check_number
from ncfast.metrics.joint_moments import RegressionMoments, regression_moments
from ncfast.ops.spectra import eigen, principal_axes, rank_cutoff, significant


@torch.no_grad()
def regression_metrics(
    feats: Array | RegressionMoments,
    targets: Array | None = None,
    *,
    weight: Array | None = None,
    gamma: SupportsFloat | None = None,
) -> dict[str, Tensor]:
    """NRC1, NRC2 and NRC3 of a network that regresses n targets; zero means collapsed.

    Andriopoulos et al. 2024 (arXiv 2409.04180), Section 3.1, with u = h / norm(h) and the last
    layer's weight W, whose prediction is W h + b:

    - "nrc1.features": mean of norm(u - P u)^2, P onto the first n principal components of h.
    - "nrc2.weight": mean of norm(u - P u)^2, P onto the span of the rows of W.
    - "nrc3.gram": norm_F(A / norm_F(A) - B / norm_F(B))^2, A = W W^T, B = Sigma^(1/2) -
      gamma^(1/2) I, Sigma the covariance of the targets.
    - "nrc3.gamma": gamma. The paper asks for some gamma between 0 and the smallest eigenvalue of
      Sigma; None takes the best one, which is in closed form.

    The principal components are those of the centred features, as in the authors' code; u is not
    centred, as in the paper. Rows of zeros, which have no direction, are left out of both means.

    Args:
        feats: (N, D) features in floats of 16 to 64 bits, the input of the last layer; or their
            `RegressionMoments`, for features that come in batches.
        targets: (N, n), or (N,) for n = 1; omitted with moments.
        weight: (n, D), as in `nn.Linear(D, n).weight`; None gives NRC1 alone.
        gamma: the gamma of NRC3, at least 0, in squared units of the targets. The paper takes the
            best one of the trained network for all steps before.

    Returns:
        () float64 tensors by id, on the features' device. Detached from the graph. On CUDA the
        decompositions wait for the device. NRC1 is NaN if n >= D, NRC2 if the rows of W span all
        D dimensions, and NRC3 if n = 1: there the definitions are 0 whatever the features are.
        NRC1 is also NaN if all features are equal, NRC3 if W or B is zero or ``gamma`` exceeds the
        smallest eigenvalue of Sigma, all without rows. Values below about 1e-14 are rounding.

    Raises:
        ValueError: shapes, lengths or devices that do not fit, targets beside moments, a negative
            or infinite ``gamma``.
        TypeError: a dtype that cannot be used.

    Example:
        >>> import torch, ncfast
        >>> y = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
        >>> w = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
        >>> found = ncfast.regression_metrics(y @ w, y, weight=w)
        >>> [round(found[name].item(), 6) for name in ("nrc1.features", "nrc2.weight")]
        [0.0, 0.0]
    """
    moments = _as_moments(feats, targets)
    fixed = None if gamma is None else check_number("gamma", gamma)
    if fixed is not None and not 0 <= fixed < math.inf:
        raise ValueError(
            f"Expected argument `gamma` to be finite and at least 0 but got {fixed}. Pass None for "
            "the best one."
        )
    values = {"nrc1.features": _outside(moments, _components(moments))}
    if weight is not None:
        rows = _as_rows(weight, moments)
        values["nrc2.weight"] = _outside(moments, _span(rows))
        values |= _gram(rows, moments.target_covariance, fixed)
    return values


def _as_moments(feats: Array | RegressionMoments, targets: Array | None) -> RegressionMoments:
    if not isinstance(feats, RegressionMoments):
        if targets is None:
            raise ValueError("Expected argument `targets` beside `feats` but got None.")
        return regression_moments(feats, targets)
    if targets is not None:
        raise ValueError(
            "Expected no argument `targets` beside a RegressionMoments, which holds their moments "
            f"already, but got {type(targets).__name__}."
        )
    return feats


def _as_rows(weight: Array, moments: RegressionMoments) -> Tensor:
    """The weight (n, D) in float64."""
    rows = as_tensor("weight", weight)
    if rows.shape != (moments.targets, moments.dim):
        raise ValueError(
            f"Expected argument `weight` of shape (n, D) = ({moments.targets}, {moments.dim}) but "
            f"got {tuple(rows.shape)}. Pass the last layer's parameter, as in nn.Linear(D, n)."
        )
    if rows.is_complex():
        raise TypeError(f"Expected argument `weight` to hold real numbers but got {rows.dtype}.")
    if rows.device != moments.mean.device:
        raise ValueError(
            f"Expected argument `weight` on {moments.mean.device}, as the features, but got "
            f"{rows.device}."
        )
    return rows.to(torch.float64)


def _components(moments: RegressionMoments) -> Tensor:
    """The first n principal components in rows, (D, D); rows of zeros in place of the others.

    A component without variance is none. NaN where n >= D or there is no variance.
    """
    values, vectors = eigen(moments.feature_covariance)
    centre = moments.mean.narrow(0, 0, moments.dim).square().sum()
    # rounding leaves deviations in proportion to the features' norms
    floor = rank_cutoff(moments.dim) ** 2 * centre
    place = torch.arange(moments.dim, device=values.device)
    kept = significant(values, moments.dim) & (values > floor) & (place < moments.targets)
    defined = kept.any() & (moments.targets < moments.dim)
    undefined = torch.where(defined, 0.0, torch.nan) + 0 * values.sum()
    return torch.where(kept.unsqueeze(1), vectors, 0.0) + undefined


def _span(rows: Tensor) -> Tensor:
    """An orthonormal basis of the span of rows (n, D), and rows of zeros, (min(n, D), D).

    NaN where the span is everything.
    """
    axes = principal_axes(rows)
    kept = significant(axes.values, max(rows.shape))
    undefined = torch.where(kept.sum() < rows.shape[1], 0.0, torch.nan) + 0 * rows.sum()
    return torch.where(kept.unsqueeze(1), axes.directions, 0.0) + undefined


def _outside(moments: RegressionMoments, basis: Tensor) -> Tensor:
    """Mean of norm(u - P u)^2, P onto the orthonormal rows of a basis; zero rows add nothing."""
    inside = ((basis @ moments.directions) * basis).sum()
    return (1 - inside / moments.directions.trace()).clamp(min=0)


def _gram(rows: Tensor, covariance: Tensor, gamma: float | None) -> dict[str, Tensor]:
    """NRC3 and its gamma."""
    number = len(rows)
    variances, vectors = eigen(covariance)
    variances = torch.where(significant(variances, number), variances, 0.0)
    smallest = variances.amin()
    root = (vectors.T * variances.sqrt()) @ vectors + 0 * covariance.sum()
    gram = _normalised(rows @ rows.T)
    if gamma is None:
        shift = _best_shift(gram, root, smallest.sqrt())
    else:
        given = torch.full_like(smallest, gamma)
        # a gamma that this function found may lie above by its rounding
        beyond = given > smallest * (1 + 4 * rank_cutoff(number))
        shift = torch.where(beyond, torch.nan, given.sqrt())
    identity = torch.eye(number, dtype=root.dtype, device=root.device)
    distance = (gram - _normalised(root - shift * identity)).square().sum()
    if number == 1:
        distance = distance * torch.nan
    return {"nrc3.gram": distance, "nrc3.gamma": shift.square()}


def _best_shift(gram: Tensor, root: Tensor, largest: Tensor) -> Tensor:
    """The s in [0, largest] that brings root - s I, normalised, nearest to gram.

    The cosine of gram = A0 + t/n I and root - s I = S0 + u I, with traceless A0 and S0, grows with
    u if <A0, S0> <= 0, and otherwise has its only maximum at u = t norm(S0)^2 / (n <A0, S0>).
    """
    number = len(root)
    mean = root.trace() / number
    identity = torch.eye(number, dtype=root.dtype, device=root.device)
    traceless = root - mean * identity
    product, size = (gram * traceless).sum(), traceless.square().sum()
    best = mean - gram.trace() * size / (number * product)
    # targets of equal variance without correlation: every s gives the same matrix
    shaped = size.sqrt() > rank_cutoff(number) * torch.linalg.matrix_norm(root)
    best = torch.where(shaped & (product > 0), best, 0.0)
    return torch.minimum(best.clamp(min=0), largest) + 0 * (root.sum() + gram.sum())


def _normalised(matrix: Tensor) -> Tensor:
    return matrix / torch.linalg.matrix_norm(matrix)
