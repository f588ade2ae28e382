"""Reads classes from frozen features without the network's classifier: class means, and a ridge.

Both readouts are made from the training split and can be tried on any split. They tell whether the
features or the classifier are what unseen samples lack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ncfast.experiments.data import ImageSet
from ncfast.experiments.training.program import ReplicaProgram

MOST = 5000  # training samples, from the start, that a readout is made from
# ridges that are tried, relative to the mean eigenvalue of the centred Gram matrix
RIDGES = tuple(10.0**power for power in range(-8, 3))


@dataclass(frozen=True)
class Readouts:
    """The two readouts of R replicas, as linear functions of centred features.

    Attributes:
        centre: (R, D) mean of the training features, float64.
        nearest: (R, D, K) weights and (R, K) biases whose largest score is the nearest class mean,
            float64.
        ridge: the same of the ridge regression on one-hot labels.
        left_out: (R,) accuracy of the ridge on training samples, each left out in its turn.
    """

    centre: Tensor
    nearest: tuple[Tensor, Tensor]
    ridge: tuple[Tensor, Tensor]
    left_out: Tensor

    def correct(self, features: Tensor, labels: Tensor) -> Tensor:
        """Number of samples that each readout classifies correctly, (2, R) float64.

        NaN for a replica whose features are not finite.

        Args:
            features: (R, N, D).
            labels: (N,) int64.
        """
        # the rest is in the dtype of the features: centred, they lose little by its rounding
        x = features - self.centre.to(features.dtype).unsqueeze(1)
        found = [_correct(x, labels, *head) for head in (self.nearest, self.ridge)]
        return torch.stack(found)


def _correct(x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    scores = torch.baddbmm(bias.unsqueeze(1).to(x.dtype), x, weight.to(x.dtype))
    right = (scores.argmax(2) == labels).sum(1).to(torch.float64)
    return right.where(~scores.isnan().flatten(1).any(1), torch.nan)


@torch.no_grad()
def readouts_of(program: ReplicaProgram, train: ImageSet) -> Readouts:
    """The readouts from the first `MOST` training samples, model in eval mode.

    One replica is fitted at a time, so the memory does not grow with their number.
    """
    inputs, labels = train.batch(slice(MOST))
    found = []
    for tile in program.tiles:
        parts = [tile.engine.evaluate(rows)[0] for rows in inputs.split(1000)]
        features = torch.cat(parts, 1)
        found += [fit_readouts(one.unsqueeze(0), labels, train.num_classes) for one in features]
    return Readouts(
        torch.cat([one.centre for one in found]),
        _joined([one.nearest for one in found]),
        _joined([one.ridge for one in found]),
        torch.cat([one.left_out for one in found]),
    )


def _joined(heads: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    weights, biases = zip(*heads, strict=True)
    return torch.cat(weights), torch.cat(biases)


def fit_readouts(features: Tensor, labels: Tensor, num_classes: int) -> Readouts:
    """The readouts of features (R, N, D) with labels (N,).

    The ridge has an intercept, which is not penalised. Of `RIDGES` it takes for each replica the
    one with the smallest squared error of samples that are left out, by the closed form
    e_i / (1 - h_ii) (Allen 1974, PRESS).
    """
    x = features.to(torch.float64)
    finite = x.isfinite().flatten(1).all(1)
    x = x.where(finite.view(-1, 1, 1), 0.0)
    centre = x.mean(1)
    x = x - centre.unsqueeze(1)
    hot = torch.nn.functional.one_hot(labels, num_classes).to(torch.float64)
    counts = hot.sum(0)
    means = hot.T @ x / counts.clamp(min=1).unsqueeze(1)
    score = -means.square().sum(2) / 2
    score = score.where(counts > 0, -torch.inf)
    ridge, left_out = _ridge(x, hot, labels)
    unknown = torch.where(finite, 0.0, torch.nan)
    return Readouts(
        centre + unknown.unsqueeze(1), (means.transpose(1, 2), score), ridge, left_out + unknown
    )


def _ridge(x: Tensor, hot: Tensor, labels: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The ridge with the smallest error of left-out samples, and their accuracy, (R,)."""
    values, vectors = torch.linalg.eigh(x.transpose(1, 2) @ x)
    values = values.clamp(min=0)
    rotated, target = x @ vectors, hot - hot.mean(0)
    cross = rotated.transpose(1, 2) @ target
    scale = values.mean(1, keepdim=True)
    scale = torch.where(scale > 0, scale, 1.0)
    squared = rotated.square()
    errors, accuracies, weights = [], [], []
    for ridge in RIDGES:
        shrink = 1 / (values + ridge * scale)
        weight = shrink.unsqueeze(2) * cross
        lever = (squared @ shrink.unsqueeze(2)).squeeze(2) + 1 / len(labels)
        missed = (target - rotated @ weight) / (1 - lever).clamp(min=1e-12).unsqueeze(2)
        errors.append(missed.square().sum((1, 2)))
        accuracies.append(((hot - missed).argmax(2) == labels).to(torch.float64).mean(1))
        weights.append(vectors @ weight)
    best = torch.stack(errors).argmin(0)
    row = torch.arange(len(x), device=x.device)
    chosen = torch.stack(weights)[best, row]
    bias = hot.mean(0).expand(len(x), -1)
    return (chosen, bias), torch.stack(accuracies)[best, row]
