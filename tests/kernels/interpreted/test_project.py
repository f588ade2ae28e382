"""Tests projections on a few directions against the float64 oracle."""

import pytest
import torch
import twins
from samples import classes, collapsed

from ncfast.ops import moments as passes
from ncfast.ops.projection import PROJECTION


def directions(number, dim):
    generator = torch.Generator().manual_seed(5)
    return torch.linalg.qr(torch.randn(dim, number, generator=generator).double()).Q.T


def run(feats, labels, means, vectors):
    return PROJECTION.on_device(feats, labels, means, vectors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("level", [1e-1, 1e-4, 1e-7])
def test_equals_the_twin(level, dtype):
    feats, labels = collapsed(level, count=150, dim=40, num_classes=3, dtype=dtype)
    means = passes.reference(feats, labels, 3).means
    vectors = directions(4, 40)
    expected = twins.project(feats, labels, means, vectors)
    found = run(feats, labels, means, vectors)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert abs(found.sum() - expected.sum()) <= 2e-6 * expected.sum()


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (70, 33, 5, 17), (64, 200, 90, 70)])
def test_odd_shapes(shape):
    count, dim, num_classes, number = shape
    feats, labels = collapsed(0.1, count=count, dim=dim, num_classes=num_classes)
    means = passes.reference(feats, labels, num_classes).means + 0.5
    vectors = torch.randn(number, dim, generator=torch.Generator().manual_seed(1))
    expected = twins.project(feats, labels, means, vectors)
    torch.testing.assert_close(run(feats, labels, means, vectors), expected, rtol=1e-5, atol=1e-9)


def test_strides_and_labels_out_of_range():
    feats, labels = classes(60, 24, 3, dtype=torch.float32)
    vectors = directions(2, 12)
    view = feats[:, ::2]
    means = passes.reference(view, labels, 3).means
    expected = twins.project(view, labels, means, vectors)
    torch.testing.assert_close(run(view, labels, means, vectors), expected, rtol=1e-5, atol=0)
    labels[3] = 3
    assert run(view, labels, means, vectors).isnan().all()
