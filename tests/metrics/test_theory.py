"""Quantities of the theory: bounds, the realised gap, margins, spectra, drift."""

import math

import numpy as np
import pytest
import torch
from oracle import case, generalization, two_pass
from samples import classes, collapsed, companions

import ncfast


def linear_problem(spread, seed=0):
    """Classes, and a classifier made of their means: it decides well when the spread is small."""
    feats, labels = classes(4000, 10, 4, spread=spread, seed=seed)
    means = ncfast.class_moments(feats, labels).means
    weight, bias = means, -means.square().sum(1) / 2
    error = ((feats @ weight.T + bias).argmax(1) != labels).double().mean()
    return feats, labels, weight, bias, float(error)


@pytest.mark.parametrize("spread", [0.05, 0.3, 1.0, 3.0])
def test_the_bound_bounds_and_the_projected_form_is_tighter(spread):
    feats, labels, weight, bias, error = linear_problem(spread)
    projected = float(ncfast.generalization_bound(feats, labels, weight, bias))
    trace = float(ncfast.generalization_bound(feats, labels, weight, bias, projected=False))
    assert error <= projected <= trace
    assert projected < 0.5 * trace or spread == 3.0


def test_bound_without_bias_and_with_equal_rows():
    feats, labels = classes(60, 5, 3)
    weight, _, _ = companions(3, 5)
    expected = generalization(case(feats, labels, 3, weight))
    assert float(ncfast.generalization_bound(feats, labels, weight)) == pytest.approx(expected)
    # two equal rows never separate their classes: both terms are one
    same = torch.ones(2, 5)
    for projected in (True, False):
        bound = ncfast.generalization_bound(feats, labels % 2, same, projected=projected)
        assert float(bound) == 1.0


def test_bound_of_collapsed_separated_classes_is_zero():
    weight = torch.eye(3)
    feats, labels = weight.repeat(4, 1), torch.arange(3).repeat(4)
    for projected in (True, False):
        assert float(ncfast.generalization_bound(feats, labels, weight, projected=projected)) == 0


@pytest.mark.parametrize(("count", "dim"), [(300, 6), (40, 30)], ids=["D small", "n_c small"])
@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0])
def test_superfluous_information_bound(count, dim, sigma):
    feats, labels = classes(count, dim, 4, seed=2)
    x, y = feats.numpy(), labels.numpy()
    scale = (np.linalg.norm(x, axis=1).max() * sigma) ** 2
    expected = 0.0
    for c in range(4):
        covariance = np.cov(x[y == c].T, bias=True)
        expected += (y == c).mean() * np.linalg.slogdet(np.eye(dim) + covariance / scale)[1] / 2
    found = float(ncfast.superfluous_information_bound(feats, labels, sigma=sigma))
    assert found == pytest.approx(expected, rel=1e-9)
    trace = float(ncfast.superfluous_information_bound(feats, labels, sigma=sigma, form="trace"))
    assert trace == pytest.approx(float(ncfast.rnc1(feats, labels)) / (2 * sigma**2), rel=1e-12)
    assert found <= trace


def test_superfluous_information_of_collapsed_and_missing_classes():
    feats, labels = collapsed(1e-6)
    form = {
        form: float(ncfast.superfluous_information_bound(feats, labels, sigma=0.1, form=form))
        for form in ("logdet", "trace")
    }
    assert form["logdet"] == pytest.approx(form["trace"], rel=1e-6)
    feats, labels = classes(num_classes=3)
    two = float(ncfast.superfluous_information_bound(feats, labels, sigma=0.1))
    apart = float(ncfast.superfluous_information_bound(feats, 2 * labels, sigma=0.1, num_classes=9))
    assert apart == pytest.approx(two, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"sigma": 0.0}, "`sigma` to be positive"), ({"sigma": 1.0, "form": "log"}, "'log'")],
)
def test_bad_arguments_of_the_superfluous_bound(options, message):
    with pytest.raises(ValueError, match=message):
        ncfast.superfluous_information_bound(*classes(), **options)


def test_rnc1_around_the_means_of_the_training_set():
    train, labels = classes(150, 6, 4, seed=1)
    test = train[:80] * 1.1 + 0.2
    around = ncfast.class_moments(train, labels)
    stats = two_pass(train, labels, 4)
    total = sum(
        float(((x - stats["means"][c]) ** 2).sum())
        for x, c in zip(test.numpy(), labels[:80].tolist(), strict=True)
    )
    largest = float(test.norm(dim=1).max())
    found = float(ncfast.rnc1(test, labels[:80], around=around))
    assert found == pytest.approx(total / 80 / largest**2, rel=1e-12)
    assert found > float(ncfast.rnc1(test, labels[:80], num_classes=4))
    assert float(ncfast.rnc1(train, labels, around=around)) == float(ncfast.rnc1(train, labels))


def test_rnc1_around_moments_that_lack_a_class():
    feats, labels = classes(num_classes=3)
    around = ncfast.class_moments(feats, labels % 2, num_classes=3)
    assert math.isnan(float(ncfast.rnc1(feats, labels, around=around)))
    with pytest.raises(ValueError, match="means of shape"):
        ncfast.rnc1(feats, labels, around=ncfast.ClassMoments.empty(3, 5))


def test_realised_gap():
    feats, labels = classes(300, 6, 4)
    other, others = classes(200, 6, 3, seed=9, spread=1.0)
    train = ncfast.class_moments(feats, labels, num_classes=5)
    test = ncfast.class_moments(other, others, num_classes=5)
    gap = ncfast.realised_gap(train, test)
    expected = (test.class_variances - train.class_variances).abs()
    assert torch.equal(gap[:3], expected[:3])
    assert gap[3:].isnan().all()


def test_margins_and_their_histograms():
    feats, labels = classes(100, 6, 4)
    weight, bias, _ = companions(4, 6)
    pairs = [(0, 1), (3, 2)]
    margins = ncfast.class_margins(feats, weight, bias, pairs=pairs)
    for column, (a, b) in enumerate(pairs):
        normal = weight[a] - weight[b]
        by_hand = (feats @ normal + bias[a] - bias[b]) / normal.norm()
        np.testing.assert_allclose(margins[:, column], by_hand, rtol=1e-12)
    counts = ncfast.margin_histograms(margins, labels, pairs=pairs, bins=7, low=-2, high=3)
    for row, pair in enumerate(pairs):
        for side, c in enumerate(pair):
            expected = np.histogram(margins[labels == c, row], bins=7, range=(-2, 3))[0]
            assert counts[row, side].tolist() == expected.tolist()


def test_histograms_leave_out_what_lies_outside():
    margins = torch.tensor([[-9.0], [9.0], [torch.nan], [torch.inf], [1.0]])
    counts = ncfast.margin_histograms(
        margins, torch.zeros(5, dtype=torch.int64), pairs=[(0, 1)], bins=2, low=-1, high=1
    )
    assert counts.tolist() == [[[0, 1], [0, 0]]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y, w: ncfast.class_margins(x, w, pairs=[]), "at least one pair"),
        (lambda x, y, w: ncfast.class_margins(x, w, pairs=[(0, 5)]), r"got \(0, 5\)"),
        (lambda x, y, w: ncfast.margin_histograms(x, y, pairs=[(0, 1)]), r"shape \(N, R\)"),
        (
            lambda x, y, w: ncfast.margin_histograms(x[:, :1], y, pairs=[(0, 1)], bins=0),
            r"`bins` in 1",
        ),
    ],
)
def test_bad_arguments_of_margins(call, message):
    feats, labels = classes()
    with pytest.raises(ValueError, match=message):
        call(feats, labels, companions(5, 12)[0])


@pytest.mark.parametrize(("dim", "num_classes"), [(12, 5), (4, 9)])
def test_spectra(dim, num_classes):
    feats, labels = classes(200, dim, num_classes)
    found = ncfast.spectra(feats, labels)
    stats = case(feats, labels, num_classes)
    residual = stats["x"] - stats["means"][stats["y"]]
    within = np.linalg.eigvalsh(residual.T @ residual / 200)[::-1]
    np.testing.assert_allclose(found.within, within, rtol=1e-9)
    centred = stats["means"] - stats["means"].mean(0)
    between = np.linalg.eigvalsh(centred.T @ centred / num_classes)[::-1][: min(num_classes, dim)]
    np.testing.assert_allclose(found.between, between, rtol=1e-9, atol=1e-12)


def test_nc4_per_class():
    feats, labels = classes(200, 6, 4, spread=1.5)
    weight, bias, _ = companions(4, 6)
    shares = ncfast.nc4(feats, labels + (labels == 3), weight.repeat(2, 1)[:5], variant="per_class")
    assert shares.shape == (5,)
    assert shares[3].isnan()
    shares = ncfast.nc4(feats, labels, weight, bias, variant="per_class")
    counts = labels.bincount()
    agreement = float((shares * counts).sum() / counts.sum())
    assert float(ncfast.nc4(feats, labels, weight, bias)) == pytest.approx(agreement, rel=1e-12)
