"""Tests that metrics of many classes, computed piece by piece, are those of the whole."""

import pytest
import torch
from samples import classes

import ncfast
from ncfast.ops import summary

IDS = [
    *("nc1.quotient", "nc1.quotient_sample", "nc2.equinorm", "nc2.cosine_mean", "nc2.cosine_std"),
    *(f"nc3.{name}" for name in ("self_duality", "cosine", "uniform_duality", "weight_sum")),
    *("imbalance.minority_cosine_weight", "imbalance.minority_cosine_means"),
]


def moments_of(count=900, num_classes=150, dim=7, absent=True):
    feats, labels = classes(count, dim, num_classes, dtype=torch.float32)
    if absent:
        labels[labels % 11 == 3] = 0
    return ncfast.class_moments(feats, labels, num_classes=num_classes)


@pytest.fixture
def small(monkeypatch):
    """Makes pieces of 35 entries: five classes of the seven columns below."""
    whole = summary.pieces(torch.zeros(150, 7))
    assert whole == [None]

    def set_small(entries=35):
        monkeypatch.setattr(summary, "_PIECE", entries)
        return summary.pieces(torch.zeros(150, 7))

    return set_small


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("entries", [1, 35, 40, 500])
def test_values_by_piece(small, entries, absent, dtype):
    moments = moments_of(absent=absent)
    weight = torch.randn(150, 7, generator=torch.Generator().manual_seed(1)).to(dtype)
    given = {"metrics": IDS, "weight": weight}
    whole = ncfast.collapse_metrics(moments, **given)
    cuts = small(entries)
    assert len(cuts) > 1
    assert cuts[0][0] == 0
    assert sum(cuts[-1]) == 150
    found = ncfast.collapse_metrics(moments, **given)
    assert whole.keys() == found.keys() == set(IDS)
    for id_, value in whole.items():
        assert found[id_].item() == pytest.approx(value.item(), rel=1e-12, abs=1e-15), id_


def test_an_accumulator_keeps_the_classifier_as_it_is(small):
    """Of half precision: each piece is widened, and the values are those of float64."""
    feats, labels = classes(900, 7, 150, dtype=torch.float32)
    weight = torch.randn(150, 7, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    ids = [id_ for id_ in IDS if not id_.startswith("imbalance")]
    small()
    state = ncfast.Accumulator(150, metrics=ids)
    state.set_classifier(weight)
    state.update(feats, labels)
    found = state.compute()
    expected = ncfast.collapse_metrics(
        feats.double(), labels, weight=weight.double(), num_classes=150, metrics=ids
    )
    for id_ in ids:
        assert found[id_].item() == pytest.approx(expected[id_].item(), rel=1e-9), id_


@pytest.mark.parametrize("row", [0, 77, 149])
def test_nan_in_one_piece_is_nan(small, row):
    moments = moments_of(absent=False)
    moments.means[row, 2] = torch.nan
    small()
    found = ncfast.collapse_metrics(moments, metrics=["nc2.equinorm", "nc2.cosine_mean"])
    assert all(value != value for value in found.values())


def test_collapsed_means_are_zero(small):
    """Rounding around one common mean, in every piece."""
    moments = moments_of(absent=False)
    moments.means[:] = torch.linspace(1, 2, 7) + 1e-17
    small()
    inputs = ncfast.metrics.inputs.MetricInputs(moments, backend="reference")
    assert inputs.centred.eq(0).all()
    assert inputs.norms.eq(0).all()


def test_what_is_computed_whole(small):
    means = torch.zeros(150, 7)
    assert len(small()) == 30
    assert summary.pieces(means[None]) == [None]
    assert summary.pieces(means.clone().requires_grad_()) == [None]
    assert summary.pieces(means.to("meta")) == [None]
