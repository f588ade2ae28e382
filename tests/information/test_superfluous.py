"""Tests I(Z;X|Y) of linear Gaussian features against theory, bounds and other estimators."""

import math

import pytest
import torch
from truths import draw, normal

import ncfast
from ncfast.information.reduction import principal
from ncfast.metrics.bounds import superfluous_information_bound


def linear(number, variance, sigma=0.1, classes=10, dim=4, seed=0):
    """Inputs, labels, features whose trace bound is about `variance` / 2 sigma^2, and the truth."""
    x, labels = normal(number, dim, seed=seed), torch.arange(number) % classes
    means = torch.nn.functional.normalize(normal(classes, dim, seed=seed + 1), dim=1)
    feats = means[labels] + math.sqrt(variance / dim) * x
    scale = float(torch.linalg.vector_norm(feats, dim=1).max())
    feats = feats / scale  # B_g is one
    signal = variance / dim / scale**2
    return x, labels, feats, dim / 2 * math.log1p(signal / sigma**2)


@pytest.mark.parametrize("variance", [0.2, 0.03, 0.004, 0.0005, 1e-8])
def test_linear_gaussian(variance):
    x, labels, feats, truth = linear(4000, variance)
    found = ncfast.superfluous_information(feats, labels, x, sigma=0.1)
    assert abs(found.value - truth) < max(0.02, 3 * found.stderr)
    assert found.details["logdet_bound"] == pytest.approx(truth, rel=0.03)
    assert found.details["trace_bound"] >= found.details["logdet_bound"]
    expected = superfluous_information_bound(feats, labels, sigma=0.1)
    assert found.details["logdet_bound"] == pytest.approx(float(expected))


def test_ten_dimensions_and_few_samples():
    x, labels, feats, truth = linear(1000, 0.3, dim=10)
    found = ncfast.superfluous_information(feats, labels, x, sigma=0.1)
    assert found.value == pytest.approx(truth, abs=0.12)


def test_estimators_of_dependence_agree_in_one_dimension():
    x, labels, feats, truth = linear(3000, 0.03, dim=1, classes=3)
    for method in ("ksg", "ksg2", "kl"):
        found = ncfast.superfluous_information(feats, labels, x, sigma=0.1, method=method)
        assert abs(found.value - truth) < max(0.05, 3 * found.stderr), method
        assert found.details["gaussian"] == pytest.approx(truth, abs=0.05)


def test_features_that_are_noise_carry_no_information_on_the_inputs():
    """An estimator of dependence gives zero; "channel" attributes all variation to the inputs."""
    _, labels, feats, _ = linear(1500, 0.03, dim=1, classes=3)
    other = normal(1500, 1, seed=77)
    ksg = ncfast.superfluous_information(feats, labels, other, sigma=0.1, method="ksg")
    assert ksg.value == pytest.approx(0.0, abs=0.05)
    channel = ncfast.superfluous_information(feats, labels, other, sigma=0.1)
    assert channel.value > 0.2


def test_reduction_within_classes_keeps_what_is_inside_them():
    x, labels, feats, truth = linear(2000, 0.02, dim=2, classes=5)
    wide = torch.cat((100 * torch.eye(5, dtype=torch.float64)[labels], feats), 1)
    scale = float(torch.linalg.vector_norm(wide, dim=1).max())
    found = ncfast.superfluous_information(wide, labels, x, sigma=0.1 / scale, dim=2)
    assert found.value == pytest.approx(truth, abs=0.08)
    assert found.details["explained_feats"] == pytest.approx(1.0)
    assert principal(wide, 2).explained < 0.6, "components of all rows see only the classes"


def test_units_and_rotations_do_not_matter_and_noise_is_seeded():
    x, labels, feats, _ = linear(600, 0.05, dim=2, classes=3)
    base = ncfast.superfluous_information(feats, labels, x, sigma=0.2)
    again = ncfast.superfluous_information(1e-7 * feats.numpy(), labels, 1e5 * x, sigma=0.2)
    assert again.value == pytest.approx(base.value, abs=1e-6)
    other = ncfast.superfluous_information(feats, labels, x, sigma=0.2, generator=draw(5))
    assert other.value != base.value
    assert other.value == pytest.approx(base.value, abs=0.1)
    before = torch.get_rng_state()
    ncfast.superfluous_information(feats, labels, x, sigma=0.2)
    assert torch.equal(before, torch.get_rng_state())


def test_sweep():
    x, labels, feats, _ = linear(600, 0.05, dim=1, classes=3)
    swept = ncfast.noise_sensitivity(feats, labels, x, sigmas=(0.05, 0.5), stderr=False)
    assert set(swept) == {(m, s) for m in ("channel", "ksg", "kl") for s in (0.05, 0.5)}
    single = ncfast.superfluous_information(feats, labels, x, sigma=0.5, stderr=False)
    assert swept["channel", 0.5].value == single.value
    for method in ("channel", "ksg", "kl"):
        assert swept[method, 0.05].value > swept[method, 0.5].value


def test_small_classes_are_left_out_and_told():
    x, labels, feats, _ = linear(400, 0.05, dim=1, classes=2)
    labels = torch.where(torch.arange(400) < 5, 9, labels)
    for method in ("channel", "ksg"):
        with pytest.warns(ncfast.EstimateWarning, match="1 classes with at most k = 5 members"):
            found = ncfast.superfluous_information(feats, labels, x, sigma=0.1, method=method)
        assert found.n == 395


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "`sigma` to be positive and finite but got 0.0.*infinite"),
        ({"sigma": math.nan}, "`sigma` to be positive"),
        ({"dim": 0}, "`dim` to be at least 1"),
        ({"method": "magic"}, "`method` to be one of 'channel', 'ksg'"),
        ({"k": 30}, "more than k = 30 members but the largest has 20"),
        ({"labels": torch.zeros(39).long()}, "same length but got 40 and 39"),
        ({"feats": torch.zeros(40, 2)}, "a nonzero row but all rows are zero"),
    ],
)
def test_wrong_arguments(options, message):
    given = {"feats": normal(40, 2), "labels": torch.arange(40) % 2, "inputs": normal(40, 1)}
    with pytest.raises(ValueError, match=message):
        ncfast.superfluous_information(**(given | {"sigma": 0.1} | options))
