"""The C++ backend where sums cancel, overflow, underflow or are not finite."""

from __future__ import annotations

import pytest
import torch
from cluster_data import FEATURE_DTYPES, assert_matches, collapsed, features, two_pass

import ncfast
from ncfast.ops import _raw
from ncfast.ops import moments as passes

pytestmark = [
    pytest.mark.skipif(_raw.extension is None, reason=f"no extension: {_raw.import_error}"),
    pytest.mark.usefixtures("poison"),
]


@pytest.mark.parametrize("outliers", [False, True])
@pytest.mark.parametrize("std", [10.0**-e for e in range(1, 8)])
@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_collapsed(instruction_set: str, dtype: torch.dtype, std: float, outliers: bool) -> None:
    feats, labels = collapsed(std, outliers)
    feats = feats.to(dtype)
    got = passes.cpu(feats, labels, 7).within_ss.sum()
    truth = two_pass(feats, labels, 7)[1].sum()
    # float64 at 1e-7: the truth itself carries the rounding of the stored means
    tolerance = 1e-12 if dtype == torch.float64 and std > 1e-4 else 1e-6
    torch.testing.assert_close(got, truth, rtol=tolerance, atol=0)


@pytest.mark.parametrize("std", [1e-1, 1e-3, 1e-5, 1e-7])
def test_collapsed_by_lanes(std: float) -> None:
    feats, labels = collapsed(std, outliers=True)
    feats, labels = feats.float().repeat(10, 1), labels.repeat(10)
    feats[15_000:] *= 1 + std  # makes the means of the lanes differ
    got = passes.cpu(feats, labels, 7).within_ss.sum()
    torch.testing.assert_close(got, two_pass(feats, labels, 7)[1].sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("row", [0, 7, 399])
@pytest.mark.parametrize("big", [1e3, 1e6, 1e12])
@pytest.mark.parametrize("dim", [1, 20, 600])
def test_one_outlier_in_a_class(dim: int, big: float, row: int) -> None:
    """All other rows lie equally far from it: the rounding of equal deviations adds up."""
    generator = torch.Generator().manual_seed(dim)
    feats, labels = 1e-3 * torch.randn(400, dim, generator=generator), torch.arange(400) % 4
    feats[row] = big
    found = ncfast.class_moments(feats, labels, num_classes=4)
    torch.testing.assert_close(found.within_ss, true_ss(feats, labels), rtol=3e-7, atol=0)


@pytest.mark.parametrize("value", [0.1, 0.123, 0.3, 0.7, 1.1])
@pytest.mark.parametrize("share", [0.99, 0.999])
def test_columns_that_are_nearly_constant(share: float, value: float) -> None:
    generator = torch.Generator().manual_seed(0)
    feats = value * (torch.rand(400, 20, generator=generator) < share).float()
    feats[:4] = 0  # the rare value comes first
    labels = torch.arange(400) % 4
    found = ncfast.class_moments(feats, labels, num_classes=4)
    torch.testing.assert_close(found.within_ss, true_ss(feats, labels), rtol=1e-6, atol=0)


def true_ss(feats: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Two passes over each class in float64."""
    parts = [feats[labels == c].double() for c in range(int(labels.max()) + 1)]
    return torch.stack([(part - part.mean(0)).square().sum() for part in parts])


def test_far_outlier_and_drift() -> None:
    feats, labels = features(4000, 60, 3)
    feats = 1e-3 * feats
    feats[:3] += 1e4  # outliers of the first class rows seen
    feats += torch.linspace(0, 5, 4000, dtype=torch.float64)[:, None]  # sorted in time
    feats = feats.float()
    assert_matches(passes.cpu(feats, labels, 3), feats, labels, 3)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-22, 1e-18, 1e18, 1e30, 3e37])
def test_squares_out_of_the_range_of_float(instruction_set: str, scale: float) -> None:
    feats, labels = features(200, 40, 3)
    feats = (scale * feats).float()
    assert_matches(passes.cpu(feats, labels, 3), feats, labels, 3)


@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_identical_rows_give_exact_zero(instruction_set: str, dtype: torch.dtype) -> None:
    feats, _ = features(5, 201, 5)
    for repeats in (400, 2400):  # one unit; lanes
        labels = torch.arange(5).repeat(repeats)
        rows = (feats / 3).to(dtype)[labels]
        got = passes.cpu(rows, labels, 5)
        assert torch.equal(got.within_ss, torch.zeros(5, dtype=torch.float64))
        assert torch.equal(got.means, rows[:5].double())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_not_finite_stays_in_its_class(
    instruction_set: str, dtype: torch.dtype, value: float
) -> None:
    feats, labels = features(300, 70, 4)
    clean = passes.cpu(feats.to(dtype), labels, 4)
    row = 123
    feats[row, 41] = value
    got = passes.cpu(feats.to(dtype), labels, 4)
    others = torch.arange(4) != labels[row]
    assert not got.within_ss[labels[row]].isfinite()
    assert not got.means[labels[row], 41].isfinite()
    assert not got.norm_max.isfinite()
    assert not got.norm_sum.isfinite()
    assert torch.equal(got.within_ss[others], clean.within_ss[others])
    assert torch.equal(got.means[others], clean.means[others])
