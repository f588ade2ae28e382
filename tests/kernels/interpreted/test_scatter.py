"""Tests the within-class scatter matrix against the float64 oracle."""

import pytest
import torch
import twins
from samples import classes, collapsed

from ncfast.kernels import scatter as launches
from ncfast.kernels.configuration import ScatterConfig
from ncfast.ops import moments as passes
from ncfast.ops.scatter import SCATTER


def check(feats, labels, num_classes, run=SCATTER.on_device):
    means = passes.reference(feats, labels, num_classes).means
    expected = twins.scatter(feats, labels, means)
    found = run(feats, labels, means)
    assert found.dtype == torch.float64
    assert torch.equal(found, found.T)
    assert (found - expected).norm() <= 1e-6 * expected.norm()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("level", [1e-1, 1e-4, 1e-7])
def test_every_collapse_level(level, dtype):
    check(*collapsed(level, count=150, dim=20, num_classes=3, dtype=dtype), 3)


@pytest.mark.parametrize("shape", [(1, 1, 1), (70, 33, 5), (90, 150, 40)])
def test_odd_shapes(shape):
    count, dim, num_classes = shape
    check(*collapsed(0.1, count=count, dim=dim, num_classes=num_classes), num_classes)


@pytest.mark.parametrize("config", [(16, 6, 16, 32, 3, 48), (32, 3, 16, 16, 1, 144)])
def test_any_configuration(config):
    def run(*arguments):
        return launches.scatter(*arguments, ScatterConfig(*config, 4, 2))

    check(*collapsed(1e-3, count=137, dim=40, num_classes=3), 3, run)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_neither_vanish_nor_overflow(scale):
    feats, labels = classes(60, 12, 3)
    check((feats * scale).float(), labels, 3)


@pytest.mark.parametrize("others", [1e-25, 1e25])
def test_a_first_row_and_means_of_zero(others):
    generator = torch.Generator().manual_seed(5)
    half = torch.randn(20, 12, generator=generator)
    feats = torch.cat((torch.zeros(1, 12), half, -half)) * others
    check(feats, torch.zeros(41, dtype=torch.int64), 1)


def test_identical_rows_give_exactly_zero():
    rows = torch.tensor([[0.1, -3.7, 1e-3], [1 / 3, 2e4, 7.0]]).repeat(1, 5)
    labels = torch.arange(50) % 2
    assert check(rows[labels], labels, 2).eq(0).all()


def test_strides_and_labels_out_of_range():
    feats, labels = classes(60, 24, 3, dtype=torch.float32)
    check(feats[:, ::2], labels, 3)
    check(feats.T.contiguous().T, labels.int(), 3)
    labels[3] = 3
    assert SCATTER.on_device(feats, labels, torch.zeros(3, 24).double()).isnan().all()
