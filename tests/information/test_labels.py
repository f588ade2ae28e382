"""Tests information about class labels: Ross's estimator, its special cases, and frequencies."""

import math

import numpy as np
import pytest
import torch
from truths import collapsed, draw, normal, uniform

import ncfast

QUICK = {"stderr": False}


def two_gaussians(number, distance):
    labels = torch.arange(number) % 2
    return normal(number, 1) + distance * (2 * labels - 1).unsqueeze(1), labels


@pytest.mark.parametrize("method", ["ross", "entropies"])
@pytest.mark.parametrize(
    ("distance", "truth"),
    [(0.5, 0.111421482), (1, 0.336830820), (2, 0.632720194), (3, 0.689297933)],
)
def test_two_gaussians(method, distance, truth):
    z, labels = two_gaussians(3000, distance)
    found = ncfast.label_information(z, labels, method=method, **QUICK)
    assert found.value == pytest.approx(truth, abs=0.04)


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize(("classes", "dim"), [(2, 4), (10, 10), (100, 99)])
def test_collapsed_with_labels_right_and_random(classes, dim, spread):
    z, labels = collapsed(1200, classes, dim, spread)
    found = ncfast.label_information(z.float(), labels, **QUICK)
    # psi differs from the logarithm: with n samples per class the bias is 1 / 2n.
    assert found.value == pytest.approx(math.log(classes), abs=0.005 + classes / 2400)
    if classes <= 10:
        shuffled = labels[torch.randperm(1200, generator=draw(3))]
        random = ncfast.label_information(z.float(), shuffled, **QUICK)
        assert random.value == pytest.approx(0.0, abs=0.06)


@pytest.mark.parametrize("metric", ["l2", "linf"])
def test_labels_may_be_any_integers_and_features_on_any_scale(metric):
    z, labels = two_gaussians(600, 1)
    base = ncfast.label_information(z, labels, metric=metric).value
    for other in (labels * 70 - 35, labels.to(torch.int8), labels.numpy(), labels == 1):
        assert ncfast.label_information(z, other, metric=metric).value == base
    for scale in (1e-200, 1e-9, 1e8):
        found = ncfast.label_information(scale * z, labels, metric=metric)
        assert found.value == pytest.approx(base, abs=1e-9)
    assert ncfast.label_information(np.asarray(z), labels, metric=metric).value == base


def test_the_entropy_of_the_labels_is_the_limit():
    z, labels = collapsed(600, 4, 3, 1e-3)
    found = ncfast.label_information(z, labels)
    assert found.details["label_entropy"] == pytest.approx(math.log(4))
    noisy = [
        ncfast.label_information(normal(60, 1, seed=s), labels[:60], clip=True) for s in (0, 1)
    ]
    assert all(0 <= one.value <= one.details["label_entropy"] for one in noisy)


def test_a_constant_feature_says_nothing_on_a_rare_class():
    labels = (torch.arange(3000) % 100 == 0).long()
    with pytest.warns(ncfast.EstimateWarning, match="3000 of 3000 rows equal.*counted as atoms"):
        found = ncfast.label_information(torch.full((3000, 1), 0.7), labels, **QUICK)
    assert found.value == pytest.approx(0.0, abs=1e-12)


def test_atoms_that_tell_the_class_and_atoms_that_do_not():
    labels = torch.arange(900) % 3
    with pytest.warns(ncfast.EstimateWarning, match="counted as atoms"):
        found = ncfast.label_information(labels.float(), labels, **QUICK)
    assert found.value == pytest.approx(math.log(3), abs=0.002)
    # Half of the samples determine their class; the others share one atom.
    known = uniform(900) < 0.5
    with pytest.warns(ncfast.EstimateWarning, match="counted as atoms"):
        found = ncfast.label_information(torch.where(known, labels + 1.0, 0.0), labels, **QUICK)
    assert found.value == pytest.approx(float(known.double().mean()) * math.log(3), abs=0.01)


def test_single_members_are_dropped_and_told():
    z, labels = two_gaussians(400, 2)
    base = ncfast.label_information(z, labels, **QUICK).value
    more = torch.cat((z, torch.tensor([[50.0], [60.0]], dtype=z.dtype)))
    with pytest.warns(ncfast.EstimateWarning, match="2 classes with a single member were left out"):
        found = ncfast.label_information(more, torch.cat((labels, torch.tensor([7, 8]))), **QUICK)
    assert found.value == pytest.approx(base, abs=1e-9)
    assert (found.n, found.details["dropped"]) == (400, 2)


def test_small_classes_use_fewer_neighbours():
    z, labels = collapsed(40, 10, 10, 1e-3)
    with pytest.warns(ncfast.EstimateWarning, match="10 classes have at most k = 5 members"):
        found = ncfast.label_information(z, labels, **QUICK)
    assert found.value == pytest.approx(math.log(10), abs=0.15)


def test_one_class_is_zero_with_a_warning():
    with pytest.warns(ncfast.EstimateWarning, match="All labels are equal"):
        found = ncfast.label_information(normal(100, 2), torch.zeros(100, dtype=torch.int64))
    assert found.value == pytest.approx(0.0, abs=1e-12)


def test_without_two_members_anywhere_it_refuses():
    with pytest.raises(ValueError, match="`labels` to have a class with two members but got 50"):
        ncfast.label_information(normal(50, 2), torch.arange(50))


class TestDiscrete:
    def test_closed_form_of_a_symmetric_channel(self):
        x = (uniform(20000) * 4).long()
        y = torch.where(uniform(20000, seed=1) < 0.8, x, (uniform(20000, seed=2) * 4).long())
        hit = 0.8 + 0.2 / 4
        truth = math.log(4) + hit * math.log(hit) + 3 * 0.05 * math.log(0.05)
        found = ncfast.discrete_mutual_information(x, y)
        assert abs(found.value - truth) < 4 * found.stderr
        assert found.stderr < 0.01

    def test_correction_takes_the_bias_away(self):
        values = {"plain": [], "miller-madow": []}
        for seed in range(40):
            x, y = (uniform(2, 400, seed=seed) * 5).long()
            values["plain"].append(ncfast.discrete_mutual_information(x, y).value)
            corrected = ncfast.discrete_mutual_information(x, y, correction="miller-madow")
            values["miller-madow"].append(corrected.value)
        assert np.mean(values["plain"]) == pytest.approx(16 / 800, abs=0.004)
        assert np.mean(values["miller-madow"]) == pytest.approx(0.0, abs=0.004)

    def test_standard_error_is_the_spread(self):
        found = []
        for seed in range(60):
            x = (uniform(600, seed=seed) * 3).long()
            kept = uniform(600, seed=1000 + seed) < 0.6
            y = torch.where(kept, x, (uniform(600, seed=2000 + seed) * 3).long())
            found.append(ncfast.discrete_mutual_information(x, y))
        spread = np.std([one.value for one in found], ddof=1)
        assert 0.75 < spread / np.mean([one.stderr for one in found]) < 1.3

    def test_few_samples_and_constants_are_told(self):
        with pytest.warns(ncfast.EstimateWarning, match="20 samples in 20 occupied cells are few"):
            ncfast.discrete_mutual_information(torch.arange(20), torch.arange(20))
        with pytest.warns(ncfast.EstimateWarning, match="constant"):
            found = ncfast.discrete_mutual_information(torch.arange(20) % 2, torch.zeros(20).long())
        assert found.value == 0


def test_a_narrow_column_among_wide_ones_is_missed_with_a_warning():
    labels = torch.arange(900) % 3
    told = 2 * labels + normal(900, 1)[:, 0]
    z = torch.stack((told, *(1e4 * normal(900, 2, seed=1)).T), 1)
    with pytest.warns(ncfast.EstimateWarning, match="times the spread of another and hides it"):
        found = ncfast.label_information(z, labels)
    assert found.value < 0.1 < ncfast.label_information(told, labels).value
