"""Tests the operations on metrics: every value has a reference, also without a rival."""

import pytest
import torch

from ncfast.benchmarks.operations import OPERATIONS
from ncfast.benchmarks.plain import metrics_public
from ncfast.benchmarks.registry import Case
from ncfast.metrics.catalogue import CATALOGUE

CPU = torch.device("cpu")
CASE = Case({"N": 600, "D": 24, "K": 7, "spread": 0.5, "dtype": "float32"}, 1, 1, budget=1e-2)
TIERS = ("lite", "standard", "full", "suite")
LACKING = {"metrics.lite": "lite", "metrics.standard": "standard", "metrics.full": "public"}


def of_others(operation):
    return next(each for each in operation.contestants if each.kind != "ncfast")


def ours(operation):
    return next(each for each in operation.contestants if each.name == "ncfast reference")


@pytest.mark.parametrize("tier", TIERS)
def test_everyone_is_right(tier):
    operation = OPERATIONS[f"metrics.{tier}"]
    inputs = operation.make(CASE, 0, CPU)
    truth = operation.truth(inputs)
    known = [n for n, m in CATALOGUE.items() if TIERS.index(m.tier) <= TIERS.index(tier)]
    assert set(truth.plain) | set(truth.ours_alone) == set(known)
    for contestant in operation.contestants:
        if contestant.available(CASE) is None:
            error = operation.error(contestant.prepare(inputs)(), truth)
            assert error <= contestant.allowed(CASE), contestant.name


@pytest.mark.parametrize("name", LACKING)
def test_a_metric_that_only_ncfast_has_is_checked(monkeypatch, name):
    operation, lacking = OPERATIONS[name], LACKING[name]
    plain = getattr(metrics_public, lacking)

    def without_one(*given):
        values = dict(plain(*given))
        del values["nc3.cosine"]
        return values

    inputs = operation.make(CASE, 0, CPU)
    before = set(operation.truth(inputs).ours_alone)
    monkeypatch.setattr(metrics_public, lacking, without_one)
    truth = operation.truth(inputs)
    assert set(truth.ours_alone) == before | {"nc3.cosine"} != before
    found = ours(operation).prepare(inputs)()
    assert operation.error(found, truth) < 1e-6
    found["nc3.cosine"] = 1.5 * found["nc3.cosine"]
    assert operation.error(found, truth) == pytest.approx(0.5)
    theirs = of_others(operation).prepare(inputs)()
    theirs.pop("nc3.cosine", None)
    assert operation.error(theirs, truth) <= CASE.budget


def test_a_metric_without_a_truth_ends_the_run():
    operation = OPERATIONS["metrics.lite"]
    inputs = operation.make(CASE, 0, CPU)
    truth, found = operation.truth(inputs), ours(operation).prepare(inputs)()
    with pytest.raises(LookupError, match=r"there is none of \['nc9.new'\]"):
        operation.error(found | {"nc9.new": torch.ones(())}, truth)
    del found["rnc1.max"]
    with pytest.raises(LookupError, match=r"\['rnc1.max'\] are missing"):
        operation.error(found, truth)


def test_many_classes_are_held_to_the_reference_form(monkeypatch):
    operation = OPERATIONS["metrics.suite"]
    monkeypatch.setattr("ncfast.benchmarks.operations.metrics.MANY_CLASSES", 5)
    inputs = operation.make(CASE, 0, CPU)
    truth = operation.truth(inputs)
    assert not truth.plain
    assert set(truth.ours_alone) == set(CATALOGUE)
    assert (
        operation.error(
            metrics_public.public(
                *(inputs[n] for n in ("feats", "labels", "weight", "bias", "ood"))
            ),
            truth,
        )
        < 1e-2
    )
