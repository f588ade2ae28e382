"""The scatter matrix: the sum over all rows of (x - mu)(x - mu)^T around the class means."""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.kernels.configuration import scatter_config
from ncfast.ops import _comparison, _raw
from ncfast.ops._registry import Operation, operator
from ncfast.ops.blocks import fold_invalid, multiprocessors, residuals


def reference(feats: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """Sum over all rows of (x - mean of its class)(x - mean of its class)^T.

    Args:
        feats: (N, D) features in floats of 16 to 64 bits.
        labels: (N,) integer class indices; one outside 0..K-1 makes every entry NaN.
        means: (K, D) class means, float64.

    Returns:
        (D, D) float64, exactly symmetric; N times the covariance Sigma_W.
    """
    _, nan_if_invalid = fold_invalid(labels.to(torch.int64), means.shape[0])
    dim = means.shape[1]
    total = means.new_zeros((dim, dim))
    # the upper triangle in panels: there is no symmetric product, and this saves 3/8 of the work
    width = max(64, -(-dim // 4))
    for residual, _ in residuals(feats, labels, means):
        for start in range(0, dim, width):
            rows, right = min(width, dim - start), residual.narrow(1, start, dim - start)
            panel = total.narrow(0, start, rows).narrow(1, start, dim - start)
            panel.addmm_(right.narrow(1, 0, rows).T, right)
    upper = total.triu(1)
    return upper + upper.T + torch.diag(total.diagonal()) + nan_if_invalid


def _cpu(feats: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """Call the extension, in float64. Labels out of range are clamped; the means are NaN then."""
    means = means.contiguous()
    total = means.new_empty((means.shape[1], means.shape[1]))
    _raw.loaded().scatter(
        *_raw.matrix(feats),
        (labels := _raw.classes_copy(labels, len(means))).data_ptr(),
        means.data_ptr(),
        total.data_ptr(),
        torch.get_num_threads(),
    )
    return total


def _triton(feats: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """Call a kernel on tensor cores, which is as accurate as float32.

    It takes residuals around the exact mean in float32, multiplies them as three bfloat16 pieces
    each, and adds sums of 512 rows in float64.
    """
    from ncfast.kernels.scatter import scatter

    config = scatter_config(*feats.shape, multiprocessors(feats.device))
    return scatter(feats, labels, means, config)


def _eagerly(feats: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    return SCATTER.eagerly(feats, labels, means)


def _fake(feats: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    del labels, means
    return feats.new_empty((feats.shape[1], feats.shape[1]), dtype=torch.float64)


SCATTER = Operation(
    "the scatter matrix",
    reference,
    _cpu,
    _triton,
    operator(
        "triton_scatter(Tensor feats, Tensor labels, Tensor means) -> Tensor",
        _fake,
        cpu=reference,
        cuda=_eagerly,
    ),
    comparison=_comparison.SCATTER,
)
