"""Tests the kernels of the gradient through class moments against the reference."""

import pytest
import torch
from samples import classes, collapsed

from ncfast.ops import moments as forward
from ncfast.ops.gradient import GRADIENT, reference


def given(num_classes, dim, wanted=(True, True, True, True)):
    generator = torch.Generator().manual_seed(3)
    shapes = ((num_classes, dim), (num_classes,), (), ())
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [g if keep else None for g, keep in zip(made, wanted, strict=True)]


def check(feats, labels, num_classes, gradients, rtol):
    raw = forward.reference(feats, labels, num_classes)
    expected = reference(feats, labels, raw.counts, raw.means, *gradients)
    found = GRADIENT.on_device(feats, labels, raw.counts, raw.means, *gradients)
    assert found.dtype == feats.dtype
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (33, 7, 9), (60, 300, 4)])
def test_equals_the_reference(shape, dtype):
    count, dim, num_classes = shape
    feats, labels = classes(count, dim, min(count, num_classes), dtype=dtype)
    check(
        feats, labels, num_classes, given(num_classes, dim), 1e-2 if dtype.itemsize == 2 else 1e-6
    )


@pytest.mark.parametrize("wanted", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)])
def test_each_moment_alone(wanted):
    feats, labels = classes(70, 12, 3, dtype=torch.float32)
    check(feats, labels, 3, given(3, 12, wanted), 1e-6)


@pytest.mark.parametrize("level", [1e-4, 1e-7])
def test_collapsed_features(level):
    feats, labels = collapsed(level, count=100, dim=40, num_classes=3)
    check(feats, labels, 3, given(3, 40, (0, 1, 0, 0)), 1e-6)


def test_strides_zero_rows_and_ties():
    feats, labels = classes(64, 20, 3, dtype=torch.float32)
    feats[5], feats[40], feats[41] = 0, 100, -100
    check(feats[:, ::2], labels.to(torch.int16), 3, given(3, 10), 1e-6)
    check(torch.zeros(9, 4), torch.arange(9) % 3, 3, given(3, 4, (0, 0, 1, 1)), 1e-6)


def test_a_label_out_of_range_makes_its_row_nan():
    feats, labels = classes(30, 5, 3, dtype=torch.float32)
    raw = forward.reference(feats, labels, 3)
    labels[4], labels[9] = 3, -1
    found = GRADIENT.on_device(feats, labels, raw.counts, raw.means, *given(3, 5))
    assert found.isnan().any(1).nonzero().squeeze(1).tolist() == [4, 9]
