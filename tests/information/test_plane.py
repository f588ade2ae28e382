"""Tests the information plane on features with known information."""

import math

import pytest
import torch
from truths import collapsed, normal

import ncfast
from ncfast.information.reduction import principal, residuals


def problem(number=1500, classes=3):
    """Inputs with the class in their first column and two Gaussian columns."""
    labels = torch.arange(number) % classes
    nuisance = normal(number, 2)
    told = 10.0 * labels.unsqueeze(1) + normal(number, 1, seed=1)
    return torch.cat((told, nuisance), 1), labels, nuisance


def test_what_is_kept_and_what_is_thrown_away():
    x, labels, nuisance = problem()
    plane = ncfast.InformationPlane(x, labels, sigma=0.1, method="channel")
    means = torch.eye(3, dtype=torch.float64)[labels]
    points = [plane(torch.cat((means, size * nuisance), 1)) for size in (0.3, 0.1, 0.0)]
    for point in points:
        assert point.labels.value == pytest.approx(math.log(3), abs=0.02)
    kept = [point.superfluous.value for point in points]
    assert kept[0] > kept[1] > kept[2] == pytest.approx(0.0, abs=1e-9)
    for point in points:
        bound = point.superfluous.details["logdet_bound"]
        assert point.superfluous.value == pytest.approx(bound, abs=0.12)
        parts = point.labels.value + point.superfluous.value
        assert point.inputs.value == pytest.approx(parts, abs=0.1), "the chain rule"
    assert points[0].gap == points[0].inputs.value - points[0].labels.value


def test_random_labels_are_told_nothing_by_collapsed_features():
    feats, labels = collapsed(900, 3, 2, 1e-4)
    shuffled = labels[torch.randperm(900, generator=torch.Generator().manual_seed(1))]
    point = ncfast.information_plane(feats, feats, shuffled, sigma=0.05, stderr=False)
    assert point.labels.value == pytest.approx(0.0, abs=0.06)


@pytest.mark.filterwarnings("ignore:.*loses information")
def test_the_object_and_the_function_agree_at_every_call():
    x, labels, _ = problem(600)
    plane = ncfast.InformationPlane(x, labels, sigma=0.3, stderr=False)
    one, two = plane(x), plane(x.float().numpy())
    assert one == plane(x) == ncfast.information_plane(x, x, labels, sigma=0.3, stderr=False)
    assert two.superfluous.value == pytest.approx(one.superfluous.value, abs=1e-3)


@pytest.mark.filterwarnings("ignore:.*loses information")
def test_known_entropy_of_the_inputs_is_the_same_as_a_new_one():
    x, labels, _ = problem(400)
    plane = ncfast.InformationPlane(x, labels, sigma=0.3, method="kl", stderr=False)
    first = plane(x)
    plane.known = None
    assert plane(x).inputs.value == pytest.approx(first.inputs.value, abs=1e-12)


def test_a_shortfall_of_the_estimate_is_told():
    x, labels = normal(600, 4), torch.arange(600) % 2
    feats = x + 20 * labels.unsqueeze(1)
    with pytest.warns(ncfast.EstimateWarning, match=r"is less than I\(Z;Y\) \+ I\(Z;X\|Y\)"):
        point = ncfast.information_plane(x, feats, labels, sigma=5e-3)
    assert point.superfluous.value > point.inputs.value


@pytest.mark.filterwarnings("ignore:.*loses information")
def test_dimensions_and_explained_variance():
    x, labels, _ = problem(300)
    wide = torch.cat((x, normal(300, 5, seed=4)), 1)
    point = ncfast.information_plane(wide, wide, labels, dim=2, sigma=0.3, stderr=False)
    assert point.inputs.dims == (2, 2)
    assert point.labels.dims == (2,)
    variance = residuals(wide, None).square().mean(0)
    assert 0.8 < point.explained_feats < 1
    assert point.explained_feats > float(variance[0] / variance.sum())
    full = ncfast.information_plane(x, x, labels, dim=None, label_dim=1, sigma=0.3, stderr=False)
    assert full.inputs.dims == (3, 3)
    assert full.labels.dims == (1,)
    assert full.explained_inputs == 1


@pytest.mark.parametrize("shape", [(50, 6), (10, 30)])
def test_principal_components_are_those_of_the_singular_values(shape):
    rows = normal(*shape)
    found = principal(rows, 3)
    values, axes = torch.linalg.svd(residuals(rows, None))[1:]
    assert found.explained == pytest.approx(float((values[:3] ** 2).sum() / (values**2).sum()))
    overlap = torch.linalg.svdvals(found.axes.T @ axes[:3].T)
    assert overlap == pytest.approx(1.0)


def test_components_within_classes():
    feats, labels = collapsed(60, 3, 4, 1e-3)
    found = principal(feats, 4 - 1, labels)
    inside = residuals(feats, labels)
    assert inside.abs().max() < 0.01
    kept = (inside @ found.axes).square().sum() / inside.square().sum()
    assert found.explained == pytest.approx(float(kept))


@pytest.mark.parametrize("options", [{"sigma": -1.0}, {"method": "magic"}, {"dim": 0}])
def test_wrong_options(options):
    x, labels, _ = problem(60)
    with pytest.raises(ValueError, match="Expected argument"):
        ncfast.InformationPlane(x, labels, **options)


def test_another_length():
    x, labels, _ = problem(60)
    with pytest.raises(ValueError, match="`feats` and `labels` to have the same length"):
        ncfast.InformationPlane(x, labels)(x[:50])
