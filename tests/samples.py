"""Inputs that several tests share."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import ncfast

BACKENDS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(not status.available, reason=f"{name}: {status.reason}"),
    )
    for name, status in ncfast.backends().items()
    if name in ("reference", "cpu")  # the backends for CPU tensors
]


def budget(backend, dtype):
    """The relative error allowed against the float64 oracle.

    The reference computes entirely in float64. The other backends sum lower precisions in float32
    around a shift and guarantee 1e-6.
    """
    return 1e-12 if backend == "reference" or dtype == torch.float64 else 1e-6


GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


def golden_companions(case):
    """Features, labels, classifier and out-of-distribution features of a golden case."""
    rng = np.random.default_rng(case["seed"])
    classes, dim, count = case["C"], case["D"], case["N"]
    means = rng.standard_normal((classes, dim)) + case["offset"]
    if case["balanced"]:
        labels = np.arange(count) % classes
    else:
        share = np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()
        labels = rng.choice(classes, size=count, p=share)
        labels[:classes] = np.arange(classes)
    feats = means[labels] + case["spread"] * rng.standard_normal((count, dim))
    np.testing.assert_allclose(feats.sum(), case["checksum"], rtol=1e-12)
    weight = means - means.mean(0) + 0.1 * rng.standard_normal((classes, dim))
    ood = rng.standard_normal((256, dim))
    return tuple(torch.from_numpy(array) for array in (feats, labels, weight, ood))


def golden_case(case):
    """Features and labels of a golden case."""
    return golden_companions(case)[:2]


def companions(num_classes, dim, seed=7):
    """A classifier weight, its bias, and out-of-distribution features."""
    generator = torch.Generator().manual_seed(seed)
    weight, bias, ood = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((num_classes, dim), (num_classes,), (40, dim))
    )
    return weight, bias, ood + 0.3


def classes(count=200, dim=12, num_classes=5, spread=0.5, seed=0, dtype=torch.float64):
    """Gaussian classes around random means, in random order; no class is empty."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(num_classes, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(num_classes, (count,), generator=generator)
    labels[:num_classes] = torch.arange(num_classes)
    noise = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    return (means[labels] + spread * noise).to(dtype), labels


def one_outlier(dim, big, row, *, count=400, num_classes=4, base=0.0, seed=0):
    """Rows of spread 1e-3 around ``base``, and one that is ``big`` in every column."""
    generator = torch.Generator().manual_seed(seed)
    feats = base + 1e-3 * torch.randn(count, dim, generator=generator)
    feats[row] = big
    return feats, torch.arange(count) % num_classes


def nearly_constant(share, value, *, count=400, dim=20, num_classes=4, seed=0):
    """Columns of one value, with a few zeros; each class begins with one."""
    generator = torch.Generator().manual_seed(seed)
    feats = value * (torch.rand(count, dim, generator=generator) < share).float()
    feats[:num_classes] = 0
    return feats, torch.arange(count) % num_classes


def collapsed(level, *, count=600, dim=96, num_classes=7, dtype=torch.float32, seed=3):
    """Classes whose standard deviation is ``level`` times the norm of the class mean."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(num_classes, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(num_classes, (count,), generator=generator)
    noise = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    scale = level * means.norm(dim=1)[labels][:, None] / dim**0.5
    return (means[labels] + scale * noise).to(dtype), labels
