"""Sums of squared projections: sum of <x - mu, v>^2 over all rows, for each direction v.

Metrics that need Sigma_W in a few directions v take a second pass over the features, such as
Tr(Sigma_W Sigma_B^+) = sum_v (sum of v) / (N lambda_v). No D x D matrix is formed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.kernels.configuration import project_config
from ncfast.ops import _comparison, _raw
from ncfast.ops._registry import Operation, operator
from ncfast.ops.blocks import first_pass_rows, fold_invalid, multiprocessors


def reference(feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor) -> Tensor:
    """Sum over all rows of <x - mean of its class, v>^2 for each row v of ``vectors`` (V, D).

    Args:
        feats: (N, D) features in floats of 16 to 64 bits.
        labels: (N,) integer class indices; one outside 0..K-1 makes every sum NaN.
        means: (K, D) class means, float64.
        vectors: (V, D).

    Returns:
        (V,) float64 on the features' device.
    """
    labels, nan_if_invalid = fold_invalid(labels.to(torch.int64), means.shape[0])
    vectors = vectors.to(torch.float64)
    sums = vectors.new_zeros(vectors.shape[0])
    rows = first_pass_rows(feats)
    for stored, label in zip(feats.split(rows), labels.split(rows), strict=True):
        deviation = stored.to(torch.float64) - means.index_select(0, label)
        sums += (deviation @ vectors.T).square().sum(0)
    return sums + nan_if_invalid


def _cpu(feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor) -> Tensor:
    if not _raw.dense_rows(feats, labels):
        return reference(feats, labels, means, vectors)
    labels, label_code = _raw.with_code(labels)
    means = means.contiguous()
    vectors = vectors.to(torch.float64).contiguous()
    sums = _raw.FLOAT64.new_empty(len(vectors))
    _raw.loaded().projected_ss(
        *_raw.matrix(feats),
        labels.data_ptr(),
        label_code,
        labels.stride(0),
        len(means),
        means.data_ptr(),
        vectors.data_ptr(),
        len(vectors),
        sums.data_ptr(),
        torch.get_num_threads(),
    )
    return sums


def _triton(feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor) -> Tensor:
    """Call a kernel that reads the features once; no D x D and no N x V matrix."""
    from ncfast.kernels.projection import projected_ss

    config = project_config(len(feats), len(vectors), multiprocessors(feats.device))
    return projected_ss(feats, labels, means, vectors, config)


def _on_cpu(feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor) -> Tensor:
    run = reference if _raw.extension is None else _cpu
    return run(feats, labels, means, vectors)


def _eagerly(feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor) -> Tensor:
    return PROJECTION.eagerly(feats, labels, means, vectors)


def _fake(feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor) -> Tensor:
    del labels, means
    return feats.new_empty(vectors.shape[0], dtype=torch.float64)


_ARGUMENTS = "(Tensor feats, Tensor labels, Tensor means, Tensor vectors) -> Tensor"
operator(f"projected_ss{_ARGUMENTS}", _fake, cpu=_on_cpu)
PROJECTION = Operation(
    "projections",
    reference,
    _cpu,
    _triton,
    operator(f"triton_projected_ss{_ARGUMENTS}", _fake, cpu=reference, cuda=_eagerly),
    comparison=_comparison.PROJECTION,
)
