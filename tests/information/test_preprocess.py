"""Tests transformations of columns: ranks, scales from 1e-300 to 1e300, and hidden columns."""

import math

import pytest
from scipy.special import ndtri
from scipy.stats import rankdata
from truths import collapsed, gaussian_pair, normal

import ncfast
from ncfast.information.preprocess import normal_scores, standardize


@pytest.mark.parametrize("step", [0.0, 0.5, 1e9])
def test_normal_scores_share_the_mean_rank(step):
    rows = normal(200, 3)
    rows = (rows / step).round() if step else rows
    wanted = ndtri(rankdata(rows.numpy(), axis=0) / 201)
    assert normal_scores(rows).numpy() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.filterwarnings("ignore::ncfast.EstimateWarning")
@pytest.mark.parametrize("unit", [1e-310, 1e-300, 1e-165, 1e-160, 1e150, 1e160, 1e300])
def test_units(unit):
    x, y = gaussian_pair(300, 0.8, dim=2)
    assert standardize(unit * x).numpy() == pytest.approx(standardize(x).numpy(), rel=1e-6)
    classes, z = (x[:, 0] > 0).long(), normal(300, 1, seed=8)

    def all_of(x, y, z):
        for preprocess in ("rank", "standardize", None):
            for metric in ("l2max", "linf"):
                yield ncfast.mutual_information(
                    x, y, preprocess=preprocess, metric=metric, stderr=False
                ).value
        for preprocess in ("standardize", None):
            yield ncfast.conditional_mutual_information(
                x, y, z, preprocess=preprocess, stderr=False
            ).value
            yield ncfast.label_information(x, classes, preprocess=preprocess, stderr=False).value
        yield ncfast.entropy(x, stderr=False).value

    found, wanted = list(all_of(unit * x, unit * y, unit * z)), list(all_of(x, y, z))
    wanted[-1] += 2 * math.log(unit)
    assert found == pytest.approx(wanted, abs=1e-4 if unit < 1e-305 else 1e-9)


def test_a_column_that_hides_the_others():
    z = normal(1000, 2)
    classes = (z[:, 0] > 0).long()
    z[:, 1] *= 1e4
    with pytest.warns(ncfast.EstimateWarning, match="Pass preprocess='standardize'"):
        found = ncfast.label_information(z, classes)
    assert found.value < 0.1
    assert ncfast.label_information(z, classes, preprocess="standardize").value > 0.6
    ncfast.label_information(z[:, :1], classes)
    z[:, 0] /= 1e4  # the label depends on the wide column: nothing is hidden
    ncfast.label_information(z.flip(1), (z[:, 1] > 0).long())


def test_a_row_that_drowns_the_others_in_noise():
    feats, labels = collapsed(400, 4, 6, 1.0)
    feats[0] *= 1e4
    with pytest.warns(ncfast.EstimateWarning, match="Drop or rescale the outlying rows"):
        point = ncfast.information_plane(feats, feats, labels, dim=3, stderr=False)
    for found in (point.inputs, point.labels, point.superfluous):
        assert any("outlying rows" in text for text in found.warnings)
