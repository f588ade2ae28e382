"""Many classes of which few are present: the same values from the present ones alone."""

import pytest
import torch
from samples import classes, companions

import ncfast
from ncfast.metrics import metric
from ncfast.metrics.inputs import MetricInputs


def many(seed=0, number=300):
    """Features of five classes among many, and a classifier of all."""
    feats, labels = classes(seed=seed)
    there = torch.tensor([7, 19, 120, 201, 299])
    weight, bias, ood = companions(number, 12)
    return (feats, there[labels]), {"weight": weight, "bias": bias, "ood_feats": ood}


def whole_and_few(monkeypatch, call):
    few = call()
    monkeypatch.setattr(metric, "_MANY", 10**9)
    return call(), few


def test_every_id_is_that_of_all_rows(monkeypatch):
    pair, given = many()
    call = lambda: ncfast.collapse_metrics(*pair, num_classes=300, **given)  # noqa: E731
    whole, few = whole_and_few(monkeypatch, call)
    assert list(few) == list(whole)
    for name, value in whole.items():
        close = pytest.approx(float(value), rel=1e-10, abs=1e-13, nan_ok=True)
        assert float(few[name]) == close, name


def test_many_states_keep_the_classes_of_any_of_them(monkeypatch):
    states = [ncfast.class_moments(*many(seed)[0], num_classes=300) for seed in (0, 1)]
    feats, labels = classes(40, num_classes=4, seed=2)
    states[0] = states[0].merge(ncfast.class_moments(feats, labels + 40, num_classes=300))
    parts = zip(*(state.state_dict().values() for state in states), strict=True)
    stacked = ncfast.ClassMoments(*map(torch.stack, parts))
    whole, few = whole_and_few(monkeypatch, lambda: ncfast.collapse_metrics(stacked))
    for name, value in whole.items():
        torch.testing.assert_close(few[name], value, rtol=1e-10, atol=1e-13, equal_nan=True)


@pytest.mark.parametrize(("number", "found"), [(300, 5), (9, None), (300, None)])
def test_rows_are_left_out_where_that_saves_work(number, found):
    moments = ncfast.ClassMoments.empty(number, 3)
    moments.counts[: found or 250] = 1
    few = metric.of_present(MetricInputs(moments))
    assert (few and few.moments.num_classes) == found


def test_no_class_at_all():
    found = ncfast.collapse_metrics(ncfast.ClassMoments.empty(300, 3), metrics="nc1")
    assert all(value.isnan() for value in found.values())
