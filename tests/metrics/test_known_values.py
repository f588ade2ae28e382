"""Metrics with known values: frames, two classes on a line, and cases where naive forms fail."""

import numpy as np
import pytest
import torch
from oracle import ORACLES, two_pass

import ncfast


def test_a_simplex_etf_is_perfect():
    rotation = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64))[0][:4]
    etf = (torch.eye(4, dtype=torch.float64) - 0.25) @ rotation
    labels = torch.arange(40) % 4
    values = ncfast.collapse_metrics(etf[labels] * 7 + 1, labels, num_classes=4)
    for name in ("nc2.equinorm", "nc2.equiangular", "nc2.etf_error", "nc1.cdnv", "rnc1.max"):
        assert float(values[name]) == pytest.approx(0.0, abs=1e-7), name


def test_an_orthogonal_frame_has_condition_one():
    labels = torch.arange(30) % 5
    feats = 3 * torch.eye(8, dtype=torch.float64)[labels]
    assert float(ncfast.nc2(feats, labels)) == pytest.approx(1.0, rel=1e-12)


def test_condition_number_beyond_the_reach_of_a_squared_matrix():
    means = torch.diag(torch.tensor([1.0, 1e-5, 1e-10], dtype=torch.float64))
    found = ncfast.nc2(means, torch.arange(3))
    assert float(found) == pytest.approx(1e10, rel=1e-9)


def test_cdnv_of_close_means_far_from_the_origin():
    feats = torch.tensor([[1e4, 0.0], [1e4 + 1e-4, 0.0]], dtype=torch.float64).repeat(2, 1)
    feats = feats + torch.tensor([[0.0, 1e-5], [0.0, 1e-5], [0.0, 0.0], [0.0, 0.0]])
    labels = torch.tensor([0, 1, 0, 1])
    expected = ORACLES["nc1.cdnv"](two_pass(feats, labels, 2))
    assert float(ncfast.cdnv(feats, labels)) == pytest.approx(expected, rel=1e-9)


def test_float32_variance_loss_of_the_naive_formula_is_not_ours():
    """The published form E[x^2] - E[x]^2 in float32 has a large error here; ncfast has none."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(64, generator=generator)
    feats = mean + 1e-5 * torch.randn(5000, 64, generator=generator)
    labels = torch.zeros(5000, dtype=torch.int64)
    truth = two_pass(feats, labels, 1)["within_ss"][0] / 5000
    naive = float((feats.square().mean(0) - feats.mean(0).square()).sum())
    ours = float(ncfast.class_moments(feats, labels).within_trace)
    assert abs(naive / truth - 1) > 1
    assert ours == pytest.approx(truth, rel=1e-6)


def test_results_are_on_the_scale_of_numpy():
    """Two classes on a line, computed by hand."""
    feats = torch.tensor([[0.0], [2.0], [10.0], [10.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert float(ncfast.rnc1(feats, labels)) == pytest.approx(0.5 / 100)
    assert float(ncfast.nc1(feats, labels)) == pytest.approx(0.5 / np.var([1.0, 10.0]))
    assert float(ncfast.cdnv(feats, labels)) == pytest.approx(1.0 / (2 * 81))
