"""Metrics of self-supervised learning: instances are classes, augmentations are samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ncfast._arrays import Array
from ncfast._validate import check_features
from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import Metric
from ncfast.metrics.rank import entropy_rank_with_floor
from ncfast.ops.spectra import eigen, significant, singular_values

_RIDGE = 1e-4  # what LiDAR adds to the within-class covariance, in squared units of the features
_TILE = 1 << 22  # number of pairs in memory at a time: 32 MB


@torch.no_grad()
def alignment(x: Array, y: Array, *, power: float = 2.0, normalize: bool = True) -> Tensor:
    """Mean distance of positive pairs to a power, E norm(x - y)^power; zero means aligned.

    Wang & Isola 2020 (arXiv 2005.10242), Section 4.1, on the unit sphere.

    Args:
        x: (N, D) features of one view of each instance, floats of 16 to 64 bits.
        y: (N, D) features of another view of the same instances, on the same device.
        power: alpha, 2 in the paper.
        normalize: divide every row by its norm first. Pass False for features that are normalised.

    Returns:
        () float64 on the features' device, in [0, 2^power] for rows of norm one. NaN with a row of
        zeros, or without a row. Detached from the graph.

    Raises:
        ValueError: the shapes or devices differ, or ``power`` is not positive.
        TypeError: an argument is not an array of floating-point numbers.

    Example:
        >>> import torch, ncfast
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> ncfast.alignment(x, 3 * x).item(), ncfast.alignment(x, -x).item()
        (0.0, 4.0)
    """
    first, second = check_features(x, "x"), check_features(y, "y")
    if first.shape != second.shape or first.device != second.device:
        raise ValueError(
            "Expected arguments `x` and `y` of one shape on one device but got "
            f"{tuple(first.shape)} on {first.device} and {tuple(second.shape)} on {second.device}. "
            "Pass two views of the same instances."
        )
    if not power > 0:
        raise ValueError(f"Expected argument `power` to be positive but got {power}. Pass 2.")
    gap = _rows(first, normalize) - _rows(second, normalize)
    return torch.linalg.vector_norm(gap, dim=1).pow(power).mean()


@torch.no_grad()
def uniformity(x: Array, *, t: float = 2.0, normalize: bool = True) -> Tensor:
    """Log mean Gaussian potential of pairs of rows, log E exp(-t norm(x_i - x_j)^2) over i < j.

    The smaller, the more evenly the rows are spread on the sphere; zero means one point. Wang &
    Isola 2020 (arXiv 2005.10242), Section 4.2. All pairs are taken, by tiles: time O(N^2 D), memory
    of one tile.

    Args:
        x: (N, D) features, floats of 16 to 64 bits.
        t: positive scale of the potential, 2 in the paper.
        normalize: divide every row by its norm first. Pass False for features that are normalised.

    Returns:
        () float64 on the features' device, in [-4 t, 0] for rows of norm one. NaN with a row of
        zeros, or with fewer than two rows. Detached from the graph.

    Raises:
        ValueError: ``x`` is not (N, D), or ``t`` is not positive.
        TypeError: ``x`` is not an array of floating-point numbers.

    Example:
        >>> import torch, ncfast
        >>> ncfast.uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).item()
        -8.0
    """
    rows = _rows(check_features(x, "x"), normalize)
    if not t > 0:
        raise ValueError(f"Expected argument `t` to be positive but got {t}. Pass 2.")
    number = len(rows)
    if number < 2:
        return rows.new_full((), torch.nan)
    parts, step = [], max(1, _TILE // number)
    for start in range(0, number, step):
        tile, others = rows[start : start + step], rows[start:]
        squares = tile.square().sum(1)[:, None] + others.square().sum(1) - 2 * tile @ others.T
        earlier = torch.ones_like(squares, dtype=torch.bool).tril()  # and the row itself
        potential = (-t * squares.clamp(min=0)).masked_fill(earlier, -torch.inf)
        parts.append(potential.flatten().logsumexp(0, keepdim=True))
    return torch.cat(parts).logsumexp(0) - math.log(number * (number - 1) / 2)


def _rows(feats: Tensor, normalize: bool) -> Tensor:
    """(N, D) float64, each row over its norm if asked for."""
    rows = feats.to(torch.float64)
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True) if normalize else rows


def lidar(inputs: MetricInputs) -> Tensor:
    """Effective rank of the means after whitening by Sigma_W; NaN with fewer than two classes."""
    values, vectors = eigen(inputs.scatter)
    # a variance within the rounding of the largest is zero: no rounding shall outgrow the ridge
    values = torch.where(significant(values, inputs.moments.dim), values, 0.0)
    whitened = (inputs.centred @ vectors.T) / (values + _RIDGE).sqrt()
    spread = singular_values(whitened).square()
    spread = torch.nn.functional.pad(spread, (0, inputs.moments.dim - len(spread)))
    return entropy_rank_with_floor(spread, len(spread)) + inputs.nan_if_invalid


METRICS = {
    "ssl.lidar": Metric(
        lidar,
        "exp(-sum_r p_r log p_r), p_r = lambda_r / sum lambda + 1e-07, lambda the D eigenvalues of "
        f"S Sigma_B S, S = (Sigma_W + {_RIDGE} I)^(-1/2), Sigma_B by class",
        "Thilak et al. 2024 (LiDAR), arXiv 2312.04000",
        "[1, min(P - 1, D)]",
        "P - 1 or D: instances spread evenly",
        tier="full",
        needs=frozenset({"moments", "scatter"}),
        uses=frozenset({"scatter"}),
        synchronizes=True,
    ),
}
