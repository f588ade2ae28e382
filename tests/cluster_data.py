"""Small, seeded inputs and their oracle for the tests of backends."""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.ops.moments import RawMoments

FEATURE_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def features(rows: int, dim: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Gaussian clusters in float64 with random labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    centres = torch.randn(min(classes, 512), dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    return centres[labels % len(centres)] + noise, labels


def collapsed(std: float, outliers: bool, dim: int = 96) -> tuple[Tensor, Tensor]:
    """Clusters with std / |mean| = ``std`` per coordinate; the first rows are of another class."""
    generator = torch.Generator().manual_seed(1)
    rows, classes = 3000, 7
    labels = torch.randint(0, classes, (rows,), generator=generator)
    centres = 1 + torch.rand(classes, dim, generator=generator, dtype=torch.float64)
    noise = std * torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    feats = centres[labels] + noise
    if outliers:
        for c in range(classes):
            feats[(labels == c).nonzero()[0]] = centres[(c + 1) % classes] + noise[0]
    return feats, labels


def two_pass(feats: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Oracle of means (K, D) and sums of squared deviations (K,): two passes in float64."""
    feats = feats.to(torch.float64)
    labels = labels.to(torch.int64)
    counts = torch.bincount(labels, minlength=classes).clamp(min=1)
    sums = torch.zeros(classes, feats.shape[1], dtype=torch.float64).index_add_(0, labels, feats)
    means = sums / counts[:, None]
    # a second pass corrects the means for the rounding of the sums
    rest = torch.zeros_like(means).index_add_(0, labels, feats - means[labels])
    means = means + rest / counts[:, None]
    within = torch.zeros(classes, dtype=torch.float64)
    within.index_add_(0, labels, (feats - means[labels]).square().sum(1))
    return means, within


def assert_matches(got: RawMoments, feats: Tensor, labels: Tensor, classes: int) -> None:
    """Check moments against `two_pass`: to 1e-12 for float64 features, otherwise to 1e-6."""
    tight = feats.dtype == torch.float64
    rtol = 1e-12 if tight else 1e-6
    means, within = two_pass(feats, labels, classes)
    norms = torch.linalg.vector_norm(feats.double(), dim=1)
    assert torch.equal(got.counts, torch.bincount(labels.long(), minlength=classes))
    scale = feats.double().abs().max().item()
    torch.testing.assert_close(got.means, means, rtol=rtol, atol=rtol * scale)
    torch.testing.assert_close(got.within_ss, within, rtol=rtol, atol=1e-300)
    torch.testing.assert_close(got.norm_sum, norms.sum(), rtol=rtol, atol=0)
    torch.testing.assert_close(got.norm_max, norms.max(), rtol=rtol, atol=0)
