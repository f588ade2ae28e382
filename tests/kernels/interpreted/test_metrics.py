"""Tests metrics whose second read of the features is a kernel."""

import pytest
import torch
from samples import classes, companions

import ncfast
from ncfast.ops import _registry, moments
from ncfast.ops.decisions import STACKED_DECISIONS, Rule, reference, stacked


@pytest.mark.parametrize(("dim", "num_classes"), [(12, 4), (5, 9)])
def test_all_metrics_equal_those_of_the_reference(dim, num_classes, monkeypatch):
    feats, labels = classes(90, dim, num_classes, dtype=torch.float32)
    weight, bias, ood = companions(num_classes, dim)
    given = {"weight": weight, "bias": bias, "ood_feats": ood, "num_classes": num_classes}
    expected = ncfast.collapse_metrics(feats, labels, backend="reference", **given)
    # The moments are computed in one place, the later operations are chosen in another.
    for where in (_registry, moments):
        monkeypatch.setattr(where, "why_not_triton", lambda feats=None: None)
    found = ncfast.collapse_metrics(feats, labels, backend="triton", **given)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, equal_nan=True)


def test_rules_of_different_classes_are_launched_apart():
    feats, _ = classes(40, 6, 3, dtype=torch.float32)
    rules = [
        Rule(torch.zeros(6).double(), torch.randn(k, 6).double(), torch.randn(k).double())
        for k in (3, 5)
    ]
    for found, expected in zip(
        stacked(STACKED_DECISIONS.on_device, feats, rules), reference(feats, rules), strict=True
    ):
        assert torch.equal(found, expected)
