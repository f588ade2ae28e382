"""The condition number of accelerators against singular values."""

import math

import pytest
import torch

import ncfast
from ncfast.ops import spectra
from ncfast.ops.spectra import condition_by_squaring as condition

NONE = torch.zeros((), dtype=torch.float64)
BACKENDS = ("auto", "reference")


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
    found = float(condition(matrix, present, NONE, centred=centred))
    if rank == 0:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(expected(rows, rank), rel=1e-11)


@pytest.mark.parametrize("smallest", [1.0, 1e-4, 1e-10])
def test_reaches_as_far_as_singular_values(smallest):
    rotation = torch.linalg.qr(torch.randn(6, 40, dtype=torch.float64).T)[0].T
    values = torch.logspace(0, math.log10(smallest), 6, dtype=torch.float64)
    found = float(condition(values[:, None] * rotation, torch.ones(6, dtype=torch.bool), NONE))
    assert found == pytest.approx(1 / smallest, rel=1e-15 / smallest + 1e-12)


def test_dependent_rows_are_infinite_and_nan_stays_nan():
    everyone = torch.ones(3, dtype=torch.bool)
    matrix = torch.eye(3, 5, dtype=torch.float64)
    matrix[2] = 0
    assert float(condition(matrix, everyone, NONE)) == math.inf
    matrix[2, 2] = torch.nan
    assert math.isnan(float(condition(matrix, everyone, NONE)))
    assert math.isnan(float(condition(0 * torch.eye(3).double(), ~everyone, NONE)))


def test_the_metrics_take_it_where_reading_would_wait(monkeypatch):
    feats = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    moments = ncfast.class_moments(feats, torch.arange(60) % 5, num_classes=7)
    names = ["nc2.condition", "nc2.condition_centred"]
    here = ncfast.collapse_metrics(moments, metrics=names)
    monkeypatch.setattr(spectra, "is_on_host", lambda tensor: False)
    there = ncfast.collapse_metrics(moments, metrics=names, backend="reference")
    for name in names:
        assert float(there[name]) == pytest.approx(float(here[name]), rel=1e-12)
        assert not ncfast.describe(name).synchronizes


def _dependent(kind, number, dim, generator):
    means = torch.randn(number, dim, generator=generator, dtype=torch.float64)
    if kind == "constant":
        return torch.full((number, dim), 0.1, dtype=torch.float64)
    if kind == "one row":
        return means[:1].expand(number, dim)
    if kind == "zero":
        return torch.zeros(number, dim, dtype=torch.float64)
    means[-1] = 0.3 * means[0] + 0.7 * means[1]  # on a line, centred or not
    return means


@pytest.mark.parametrize("kind", ["constant", "one row", "zero", "line"])
@pytest.mark.parametrize(("number", "dim"), [(4, 64), (3, 5), (10, 512), (7, 6)])
@pytest.mark.parametrize("scale", [1.0, 1e-150, 1e150])
def test_dependent_means_are_infinite_on_every_path(kind, number, dim, scale, monkeypatch):
    """LAPACK leaves a rounding error in place of a zero: one cut-off decides on all paths."""
    generator = torch.Generator().manual_seed(number)
    means = scale * _dependent(kind, number, dim, generator)
    if kind == "line" and number > dim:  # else the other rows span the space
        means[1:] = means[:1]
    labels = torch.arange(5 * number) % number
    exact = torch.linalg.svdvals

    def rounded_elsewhere(matrix):
        values = exact(matrix)
        return torch.maximum(values, torch.finfo(matrix.dtype).eps / 2 * values[0])

    monkeypatch.setattr(torch.linalg, "svdvals", rounded_elsewhere)
    for backend in ("auto", "reference"):
        moments = ncfast.class_moments(means[labels], labels, backend=backend)
        names = ["nc2.condition", "nc2.condition_centred"]
        found = [ncfast.collapse_metrics(moments, metrics=names, backend=b) for b in BACKENDS]
        with monkeypatch.context() as patch:
            patch.setattr(spectra, "is_on_host", lambda tensor: False)
            found.append(ncfast.collapse_metrics(moments, metrics=names, backend="reference"))
        assert [[float(value) for value in each.values()] for each in found] == [[math.inf] * 2] * 3


def test_means_that_are_nearly_dependent_keep_their_number():
    """The cut-off is at the rounding error: a condition number of 1e12 stays finite."""
    means = torch.eye(3, 8, dtype=torch.float64)
    means[2, 2] = 1e-12
    for backend in BACKENDS:
        found = ncfast.nc2(means, torch.arange(3), variant="condition", backend=backend)
        assert float(found) == pytest.approx(1e12, rel=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_classes_that_coincide_up_to_rounding_have_no_directions(backend):
    """The same rows in another order: their means differ by rounding alone."""
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(200, 40, generator=generator, dtype=torch.float64) + 3
    feats = torch.cat([rows[torch.randperm(200, generator=generator)] for _ in range(5)])
    labels = torch.arange(5).repeat_interleave(200)
    names = ["nc2.condition", "nc2.condition_centred", "nc1.svd", "nc1.pinv", "nc1.vci"]
    found = [
        float(v)
        for v in ncfast.collapse_metrics(feats, labels, metrics=names, backend=backend).values()
    ]
    assert found[:3] == [math.inf] * 3
    assert all(map(math.isnan, found[3:]))
