"""Class moments in plain torch: the definition every faster backend is held against.

One pass over row blocks. Each row is taken relative to a pilot, the first row of its class, in
float64. A pilot that belongs to the class makes the sums as small as the spread of the class, so
nothing cancels however collapsed the features are: the error of ``S2 - |S1|^2 / n`` is at most
(n + 1) times the rounding of float64 (Chan, Golub & LeVeque 1983, shifted data).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.ops._types import RawMoments
from ncfast.ops.blocks import residuals

# Elements per block: small enough for a CPU's cache, large enough to hide a GPU's launches.
_BLOCK_CPU = 1 << 18
_BLOCK_GPU = 1 << 22


def class_moments(feats: Tensor, labels: Tensor, num_classes: int) -> RawMoments:
    """Accumulate the moments of ``feats`` (N, D) by ``labels`` (N,); no host synchronisation."""
    dim = feats.shape[1]
    labels, poison = _fold_invalid(labels.to(torch.int64), num_classes)
    counts = torch.zeros(num_classes, dtype=torch.int64, device=feats.device)
    counts.scatter_add_(0, labels, torch.ones_like(labels))
    pilots = feats.index_select(0, _first_rows(labels, num_classes)).to(torch.float64)

    shift_sum = pilots.new_zeros((num_classes, dim))
    shift_ss = pilots.new_zeros(num_classes)
    norm_sum = pilots.new_zeros(())
    norm_max = pilots.new_zeros(())
    rows = max(1, (_BLOCK_CPU if feats.device.type == "cpu" else _BLOCK_GPU) // dim)
    for stored, label in zip(feats.split(rows), labels.split(rows), strict=True):
        block = stored.to(torch.float64)
        norms = torch.linalg.vector_norm(block, dim=1)
        norm_sum += norms.sum()
        norm_max = torch.maximum(norm_max, norms.amax())
        residual = block - pilots.index_select(0, label)
        add_by_class(shift_sum, label, residual)
        add_by_class(shift_ss, label, torch.linalg.vector_norm(residual, dim=1).square())

    divisor = counts.clamp(min=1).to(torch.float64)
    # where, not a product: the pilot of an absent class is an arbitrary row and may be NaN
    means = torch.where(counts.unsqueeze(1) > 0, pilots + shift_sum / divisor.unsqueeze(1), 0.0)
    within = shift_ss - torch.linalg.vector_norm(shift_sum, dim=1).square() / divisor
    return RawMoments(
        counts, means + poison, within.clamp(min=0) + poison, norm_sum + poison, norm_max + poison
    )


def projected_ss(feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor) -> Tensor:
    """Sum over all rows of <x - mean of its class, v>^2 for each row v of ``vectors`` (V, D).

    The second pass of metrics that need Sigma_W in a few directions, such as
    Tr(Sigma_W Sigma_B^+) = sum_v of this / (N lambda_v), without a D x D matrix.

    Args:
        feats: (N, D) features in any floating dtype.
        labels: (N,) integer class indices; one outside 0..K-1 makes every sum NaN.
        means: (K, D) class means, float64.
        vectors: (V, D).

    Returns:
        (V,) float64 on the features' device.
    """
    labels, poison = _fold_invalid(labels.to(torch.int64), means.shape[0])
    vectors = vectors.to(torch.float64)
    sums = vectors.new_zeros(vectors.shape[0])
    rows = max(1, (_BLOCK_CPU if feats.device.type == "cpu" else _BLOCK_GPU) // feats.shape[1])
    for stored, label in zip(feats.split(rows), labels.split(rows), strict=True):
        deviation = stored.to(torch.float64) - means.index_select(0, label)
        sums += (deviation @ vectors.T).square().sum(0)
    return sums + poison


def scatter(feats: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """Sum over all rows of (x - mean of its class)(x - mean of its class)^T.

    Arguments as in `projected_ss`; (D, D) float64, exactly symmetric.
    """
    _, poison = _fold_invalid(labels.to(torch.int64), means.shape[0])
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
    return upper + upper.T + torch.diag(total.diagonal()) + poison


def _fold_invalid(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Map labels out of range to class 0, and give NaN to add to every result if there were any."""
    inside = (labels >= 0) & (labels < num_classes)
    nan = torch.full((), torch.nan, dtype=torch.float64, device=labels.device)
    return torch.where(inside, labels, 0), torch.where(inside.all(), torch.zeros_like(nan), nan)


def _first_rows(labels: Tensor, num_classes: int) -> Tensor:
    """Index of each class's first row; the last row of all for a class that has none."""
    row = torch.arange(labels.shape[0], device=labels.device)
    last = torch.full((num_classes,), labels.shape[0] - 1, device=labels.device)
    return last.scatter_reduce_(0, labels, row, "amin")


def add_by_class(total: Tensor, labels: Tensor, values: Tensor) -> None:
    """Add rows of values to total by label, in the same order on every run."""
    if total.device.type == "cpu":
        total.index_add_(0, labels, values)
    else:
        # index_add_ is atomic on CUDA; index_put_ sorts, so that every run adds in the same order
        total.index_put_((labels,), values, accumulate=True)
