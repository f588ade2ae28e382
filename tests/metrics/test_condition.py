"""The condition number of accelerators against singular values."""

import math

import pytest
import torch

import ncfast
from ncfast.metrics._condition import condition


def expected(rows, rank):
    singular = torch.linalg.svdvals(rows)
    return float(singular[0] / singular[rank - 1])


@pytest.mark.parametrize(("number", "dim"), [(1, 3), (2, 2), (10, 512), (8, 3), (30, 29), (29, 30)])
@pytest.mark.parametrize("absent", [0, 1, 4])
@pytest.mark.parametrize("centred", [False, True])
def test_equals_singular_values(number, dim, absent, centred):
    generator = torch.Generator().manual_seed(number + absent)
    rows = torch.randn(number, dim, generator=generator, dtype=torch.float64) + 0.5
    present = torch.ones(number + absent, dtype=torch.bool)
    present[torch.randperm(number + absent, generator=generator)[:absent]] = False
    if centred:
        rows = rows - rows.mean(0)
    matrix = torch.zeros(number + absent, dim, dtype=torch.float64)
    matrix[present] = rows
    rank = min(number - centred, dim)
    found = float(condition(matrix, present, centred=centred))
    if rank == 0:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(expected(rows, rank), rel=1e-11)


@pytest.mark.parametrize("smallest", [1.0, 1e-4, 1e-10])
def test_reaches_as_far_as_singular_values(smallest):
    rotation = torch.linalg.qr(torch.randn(6, 40, dtype=torch.float64).T)[0].T
    values = torch.logspace(0, math.log10(smallest), 6, dtype=torch.float64)
    found = float(condition(values[:, None] * rotation, torch.ones(6, dtype=torch.bool)))
    assert found == pytest.approx(1 / smallest, rel=1e-15 / smallest + 1e-12)


def test_dependent_rows_are_infinite_and_nan_stays_nan():
    everyone = torch.ones(3, dtype=torch.bool)
    matrix = torch.eye(3, 5, dtype=torch.float64)
    matrix[2] = 0
    assert float(condition(matrix, everyone)) == math.inf
    matrix[2, 2] = torch.nan
    assert math.isnan(float(condition(matrix, everyone)))
    assert math.isnan(float(condition(0 * torch.eye(3).double(), ~everyone)))


def test_the_metrics_take_it_where_reading_would_wait(monkeypatch):
    feats = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    moments = ncfast.class_moments(feats, torch.arange(60) % 5, num_classes=7)
    names = ["nc2.condition", "nc2.condition_centred"]
    here = ncfast.collapse_metrics(moments, which=names)
    monkeypatch.setattr("ncfast.metrics.geometry.labels_are_on_host", lambda tensor: False)
    there = ncfast.collapse_metrics(moments, which=names)
    for name in names:
        assert float(there[name]) == pytest.approx(float(here[name]), rel=1e-12)
        assert not ncfast.describe(name).stalls
