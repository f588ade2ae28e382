"""Tests the metrics of class imbalance on minorities that collapse, and on known orders."""

import math

import pytest
import torch

import ncfast

NAMES = "imbalance"


def uneven(sizes, dim=12, seed=0):
    """Features, labels and classifier; class c has sizes[c] samples."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    feats = torch.randn(len(labels), dim, generator=generator, dtype=torch.float64)
    weight = torch.randn(len(sizes), dim, generator=generator, dtype=torch.float64)
    return feats, labels, weight


def measure(feats, labels, weight):
    found = ncfast.collapse_metrics(feats, labels, weight=weight, metrics=NAMES)
    return {name.split(".")[1]: value.item() for name, value in found.items()}


def test_minority_rows_that_merge():
    feats, labels, weight = uneven([90, 80, 5, 6, 7])
    weight[3:] = weight[2] * torch.tensor([[2.0], [3.0]])
    found = measure(feats, labels, weight)
    assert found["minority_cosine_weight"] == pytest.approx(1)
    weight[:] = torch.eye(5, 12) - 1 / 5 * torch.nn.functional.pad(torch.ones(5, 5), (0, 7))
    assert measure(feats, labels, weight)["minority_cosine_weight"] == pytest.approx(-1 / 4)


def test_minority_means_that_merge():
    _, labels, weight = uneven([50, 60, 4, 3])
    means = torch.eye(4, 12).double()
    means[3] = means[2]
    found = measure(means[labels], labels, weight)
    assert found["minority_cosine_means"] == pytest.approx(1)


def test_rank_correlations_of_known_orders():
    feats, labels, weight = uneven([10, 20, 40, 80, 160])
    scale = torch.arange(1.0, 6)
    means = torch.eye(5, 12).double()
    rows = means[labels] * 100 + feats * scale.flip(0)[labels].double().unsqueeze(1)
    found = measure(rows, labels, torch.nn.functional.normalize(weight) * scale.unsqueeze(1))
    assert found["nc1_correlation"] == pytest.approx(-1)
    assert found["norm_correlation_weight"] == pytest.approx(1)
    # one pair of neighbours swapped: 1 - 6 * 2 / (5 * 24)
    swapped = scale[torch.tensor([1, 0, 2, 3, 4])]
    found = measure(rows, labels, torch.nn.functional.normalize(weight) * swapped.unsqueeze(1))
    assert found["norm_correlation_weight"] == pytest.approx(0.9)


def test_equal_sizes_share_a_rank():
    feats, labels, weight = uneven([10, 10, 30])
    rows = torch.nn.functional.normalize(weight) * torch.tensor([[1.0], [2.0], [3.0]])
    found = measure(feats, labels, rows)  # ranks 1.5, 1.5, 3 against 1, 2, 3
    assert found["norm_correlation_weight"] == pytest.approx(math.sqrt(3) / 2)


def test_undefined():
    found = measure(*uneven([20, 20, 20]))
    assert len(found) == 5
    assert all(math.isnan(value) for value in found.values())
    assert math.isnan(measure(*uneven([20, 20, 5]))["minority_cosine_weight"])  # one small class


def test_two_means_are_equally_far_from_their_middle():
    for seed in range(20):
        found = measure(*uneven([30, 7], seed=seed))
        assert math.isnan(found["norm_correlation_means"])


def test_streams_and_absent_classes():
    feats, labels, weight = uneven([40, 9, 8, 7, 25])
    expected = measure(feats, labels, weight)
    acc = ncfast.Accumulator(200, metrics=NAMES, weight=torch.cat([weight, torch.ones(195, 12)]))
    for batch in zip(feats.split(11), labels.split(11), strict=True):
        acc.update(*batch)
    found = {name.split(".")[1]: value.item() for name, value in acc.compute().items()}
    assert found == pytest.approx(expected, rel=1e-12)


def test_nc1_of_each_class():
    sizes = [40, 9, 8, 7]
    feats, labels, _ = uneven(sizes)
    found = ncfast.nc1(feats, labels, variant="per_class", num_classes=6)
    moments = ncfast.class_moments(feats, labels, num_classes=6)
    means = [feats[labels == c].mean(0) for c in range(4)]
    centre = sum(means) / 4
    between = sum(((mean - centre) ** 2).sum() for mean in means) / 4
    for c in range(4):
        variance = ((feats[labels == c] - means[c]) ** 2).sum(1).mean()
        assert found[c].item() == pytest.approx((variance / between).item(), rel=1e-12)
    assert torch.isnan(found[4:]).all()
    weighted = sum(n * found[c].item() for c, n in enumerate(sizes)) / sum(sizes)
    assert weighted == pytest.approx(ncfast.nc1(moments).item(), rel=1e-12)
    assert torch.equal(ncfast.nc1(moments, variant="per_class")[:4], found[:4])
    collapsed = torch.eye(4, 12).double()[labels]
    assert ncfast.nc1(collapsed, labels, variant="per_class").tolist() == [0, 0, 0, 0]
    feats[0, 0] = torch.nan
    assert torch.isnan(ncfast.nc1(feats, labels, variant="per_class")).all()
