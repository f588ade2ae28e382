"""Decisions by the largest affine score: the nearest class mean and the classifier.

On a CPU with many classes the scores are computed in float32 first. A row whose two largest scores
differ by more than the rounding of float32 can move them is decided; the others are computed again
in float64. An accelerator takes float64 at once: asking which rows are open would wait for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast._validate import labels_are_on_host
from ncfast.metrics._second_pass import blocks
from ncfast.moments import ClassMoments

_CLASSES = 4096  # columns of a block of scores
_FEW = 512  # so few classes that float64 costs little


class AffineRule:
    """argmax_c <x, rows_c> + offset_c; ties go to the smaller index.

    Args:
        rows: (K, D) float64.
        offset: (K,) float64, minus infinity for classes out of the question; zero when None.
    """

    def __init__(self, rows: Tensor, offset: Tensor | None) -> None:
        self.rows = rows
        self.offset = rows.new_zeros(len(rows)) if offset is None else offset
        self.fast = labels_are_on_host(rows) and len(rows) > _FEW
        if self.fast:
            self.rows32, self.offset32 = rows.float(), self.offset.float()
            self.largest = torch.linalg.vector_norm(rows, dim=1).amax()
            finite = torch.where(self.offset.isinf(), 0.0, self.offset)
            self.shift = finite.abs().amax()

    def __call__(self, x: Tensor) -> Tensor:
        """Decisions (n,) int64 for rows x (n, D) float64."""
        if not self.fast:
            return _largest(x, self.rows, self.offset)[0]
        chosen, best, second = _largest(x.float(), self.rows32, self.offset32, runner_up=True)
        # a sum of D products is off by at most D + 1 roundings of the product of the norms,
        # and the inputs were rounded before
        size = torch.linalg.vector_norm(x, dim=1) * self.largest
        error = torch.finfo(torch.float32).eps * ((x.shape[1] + 8) * size + 2 * self.shift)
        open_rows = ((best - second) > 2 * error).logical_not().nonzero().squeeze(1)
        if len(open_rows):
            again = _largest(x.index_select(0, open_rows), self.rows, self.offset)[0]
            chosen.index_copy_(0, open_rows, again)
        return chosen


def _largest(
    x: Tensor, rows: Tensor, offset: Tensor, *, runner_up: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Index of the largest score, that score and, if asked, the second, over blocks of classes."""
    best = x.new_full((x.shape[0],), -torch.inf)
    second = best
    index = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    for start in range(0, rows.shape[0], _CLASSES):
        width = min(_CLASSES, rows.shape[0] - start)
        scores = torch.addmm(offset.narrow(0, start, width), x, rows.narrow(0, start, width).T)
        value, where = scores.max(1)
        if runner_up:
            rest = scores.scatter_(1, where.unsqueeze(1), -torch.inf).amax(1)
            second = torch.maximum(torch.maximum(second, rest), torch.minimum(best, value))
        index = torch.where(value > best, where + start, index)
        best = torch.maximum(best, value)
    return index, best, second


def decisions(
    feats: Tensor, moments: ClassMoments, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Index of the nearest present class mean and of the largest logit, (N,) int64 each.

    Without a classifier the second is -1.
    """
    centre, means = moments.mean_of_means, moments.centred_means
    # norm(x - mu)^2 orders as norm(mu)^2 / 2 - <x, mu>; centring keeps it from cancelling
    offset = torch.where(moments.present, -means.square().sum(1) / 2, -torch.inf)
    nearest_mean = AffineRule(means, offset)
    classifier = None if weight is None else AffineRule(weight, bias)
    nearest, chosen = [], []
    none = torch.full((feats.shape[0],), -1, dtype=torch.int64, device=feats.device)
    for x, nothing in blocks(feats, none, min(_CLASSES, len(means))):
        nearest.append(nearest_mean(x - centre))
        chosen.append(nothing if classifier is None else classifier(x))
    return torch.cat(nearest), torch.cat(chosen)
