"""Tests decisions by the largest score against float64."""

import pytest
import torch
import twins
from samples import classes, collapsed

from ncfast.kernels import decisions as launches
from ncfast.kernels.configuration import decide_config
from ncfast.ops import moments as passes
from ncfast.ops.decisions import STACKED_DECISIONS


def nearest_mean(feats, labels, num_classes):
    """The rule of the nearest class mean, for a single rule: centres, weights and offsets."""
    moments = passes.reference(feats, labels, num_classes)
    present = moments.counts > 0
    centre = moments.means[present].mean(0)
    weight = moments.means - centre
    offset = torch.where(present, -weight.square().sum(1) / 2, -torch.inf)
    return centre[None], weight[None], offset[None]


def check(feats, centres, weights, offsets):
    found = STACKED_DECISIONS.on_device(feats, centres, weights, offsets)
    assert found.dtype == torch.int64
    for rule, chosen in enumerate(found):
        expected = twins.decide(feats, centres[rule], weights[rule], offsets[rule])
        assert torch.equal(chosen, expected), rule
    return found


def open_rows(feats, centres, weights, offsets):
    """Rows that float32 leaves undecided, and its provisional decisions."""
    shape = (len(weights), len(feats))
    chosen, undecided = torch.zeros(shape).long(), torch.zeros(shape, dtype=torch.int8)
    launches._decide_in_float32(
        feats, centres, weights, offsets, chosen, undecided, decide_config(weights.shape[1])
    )
    return undecided[0] > 0, chosen[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("level", [1e-1, 1e-7])
def test_collapsed_classes(level, dtype):
    feats, labels = collapsed(level, count=90, dim=40, num_classes=3, dtype=dtype)
    rule = nearest_mean(feats, labels, 3)
    assert torch.equal(check(feats, *rule)[0], labels)
    if dtype != torch.float64:
        assert not open_rows(feats, *rule)[0].any(), "clear decisions are taken in float32"


@pytest.mark.parametrize("shape", [(1, 1, 1), (70, 33, 5), (65, 7, 130), (300, 24, 20)])
def test_odd_shapes_and_a_classifier_in_the_same_launch(shape):
    count, dim, num_classes = shape
    feats, labels = classes(count, dim, min(count, num_classes), spread=2.0, dtype=torch.float32)
    centre, weight, offset = nearest_mean(feats, labels, num_classes)
    generator = torch.Generator().manual_seed(1)
    other = torch.randn(num_classes, dim, generator=generator).double()
    bias = torch.randn(num_classes, generator=generator).double()
    check(
        feats,
        torch.cat((centre, torch.zeros_like(centre))),
        torch.cat((weight, other[None])),
        torch.cat((offset, bias[None])),
    )


@pytest.mark.parametrize("gap", [1e-6, 1e-9, 1e-12])
def test_means_nearly_equal_are_told_apart_in_float64(gap):
    """Ten pairs of means that float32 cannot separate; rows of a pair may get either class."""
    generator = torch.Generator().manual_seed(4)
    base = torch.randn(10, 24, generator=generator).double()
    weight = torch.cat((base, base + gap * torch.randn(10, 24, generator=generator)))[None]
    offset = -weight.square().sum(2) / 2
    feats = (base[torch.arange(300) % 10] + torch.randn(300, 24, generator=generator) / 9).float()
    rule = (torch.zeros(1, 24).double(), weight, offset)
    found = check(feats, *rule)[0]
    undecided, guess = open_rows(feats, *rule)
    assert undecided[found != guess].all(), "whatever float32 gets wrong it knows it may"
    assert (found != guess).any()


def test_ties_go_to_the_smaller_index():
    feats, labels = classes(80, 12, 3, dtype=torch.float32)
    centre, weight, offset = nearest_mean(feats, labels, 3)
    order = [2, 0, 2, 1, 0, 1]
    found = STACKED_DECISIONS.on_device(feats, centre, weight[:, order], offset[:, order])[0]
    alone = twins.decide(feats, centre[0], weight[0], offset[0])
    assert torch.equal(found, torch.tensor([1, 3, 0])[alone])


# The interpreter uses NumPy, which warns of infinity and NaN.
@pytest.mark.filterwarnings("ignore:(invalid value|overflow|All-NaN):RuntimeWarning")
@pytest.mark.parametrize("scale", [1e-35, 1e-20, 1e20, 1e35])
def test_magnitudes(scale):
    """Products that vanish or overflow in float32 leave their row undecided, never wrong."""
    feats, labels = classes(60, 12, 4, spread=1.0)
    feats = (feats * scale).float()
    check(feats, *nearest_mean(feats, labels, 4))


@pytest.mark.filterwarnings("ignore:(invalid value|All-NaN):RuntimeWarning")
def test_absent_classes_strides_and_bad_rows():
    feats, labels = classes(60, 24, 3, dtype=torch.float32)
    view = feats[:, ::2]
    rule = nearest_mean(view, labels * 2, 6)
    assert set(check(view, *rule)[0].tolist()) <= {0, 2, 4}
    feats[7, 4] = torch.nan
    assert STACKED_DECISIONS.on_device(view, *rule)[0, 7] == 0
