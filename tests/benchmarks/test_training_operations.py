"""Tests the operations on trackers and replicas: results are compared before anything is timed."""

import json
from dataclasses import replace

import pytest
import torch

from ncfast.benchmarks.operations import (
    all_reduce,
    log_point,
    replica_step,
    tracker_cost,
    tracker_step,
)

CPU = torch.device("cpu")
CASE = tracker_step.describe({"D": 12, "batch": 40, "steps": 3}, True)


@pytest.fixture(scope="module")
def inputs():
    return tracker_step.make(CASE, 0, CPU)


@pytest.fixture(scope="module")
def truth(inputs):
    return tracker_step.truth(inputs)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("contestant", tracker_cost.MLP_OPERATION.contestants, ids=lambda c: c.name)
def test_the_first_record_is_right_and_every_step_has_one(contestant, inputs, truth):
    call = contestant.prepare(inputs)
    found = call()
    assert tracker_step.error(found, truth) <= contestant.allowed(CASE)
    if found is None:
        return
    records = [json.loads(line) for line in found.read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3]


def test_a_wrong_record_is_seen(tmp_path, truth):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"step": 1, "train/rnc1.max": 1.5 * truth["rnc1.max"]}) + "\n")
    assert tracker_step.error(path, truth) == pytest.approx(0.5)
    path.write_text(json.dumps({"step": 1}) + "\n")
    assert not tracker_step.error(path, truth) <= 1
    path.write_text(json.dumps({"step": 1, "train/rnc1.max": 0.1, "something": 1.0}) + "\n")
    with pytest.raises(LookupError, match=r"there is none of \['something'\]"):
        tracker_step.error(path, truth)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("operation", [tracker_cost.RESNET_OPERATION, tracker_cost.ALONE_OPERATION])
def test_the_other_costs_are_checked(operation):
    (case,) = operation.cases(True)
    case = replace(case, sizes={**case.sizes, "steps": 1})
    inputs = operation.make(case, 0, CPU)
    exact = operation.truth(inputs)
    for contestant in operation.contestants:
        call = contestant.prepare(inputs)
        found = call()
        assert operation.error(found, exact) <= contestant.allowed(case), contestant.name
        if found is not None and contestant.kind == "ncfast":
            layers = len(inputs.get("layers", ())) or 1
            assert len(json.loads(found.read_text())) >= 12 * layers


def test_the_log_goes_with_its_loop(inputs):
    path = tracker_step.by_items(inputs, tracker_step.loss_and_accuracy)()
    assert not path.exists()


def test_ranks_have_the_moments_of_all_samples():
    (case,) = all_reduce.OPERATION.cases(True)
    inputs = all_reduce.make(case, 0, CPU)
    exact = all_reduce.truth(inputs)
    for contestant in all_reduce.OPERATION.contestants:
        error = all_reduce.error(contestant.prepare(inputs)(), exact)
        assert error <= contestant.allowed(case), contestant.name
    assert all_reduce.error(lambda: {n: 2 * v for n, v in exact.items()}, exact) == 1


def test_the_authors_way_trains_the_same_networks():
    sizes = {"data": "digits", "model": "mlp", "replicas": 2, "steps": 2}
    inputs = replica_step.make(replica_step.describe(sizes, True), 0, CPU)
    exact = replica_step.truth(inputs)
    for contestant in replica_step.ON_MNIST.contestants:
        assert replica_step.error(contestant.prepare(inputs)(), exact) < 1e-5, contestant.name


def test_everyone_logs_what_is_true():
    case = log_point.describe({"data": "digits", "model": "mlp", "replicas": 2}, True)
    inputs = log_point.make(case, 0, CPU)
    exact = log_point.truth(inputs)
    for contestant in log_point.OPERATION.contestants:
        found = contestant.prepare(inputs)()
        assert log_point.error(found, exact) <= contestant.allowed(case), contestant.name
        assert len(found) == 2
        assert {"train/accuracy", "test/loss", "train/nc2.condition"} <= set(found[1])
    wrong = [record | {"train/loss": 2 * record["train/loss"]} for record in found]
    assert log_point.error(wrong, exact) == pytest.approx(1, rel=1e-3)
    with pytest.raises(LookupError, match="new"):
        log_point.error([record | {"train/new": 1.0} for record in found], exact)


def test_replicas_train_like_runs_of_their_own():
    sizes = {"data": "digits", "model": "mlp", "replicas": 2, "steps": 2}
    case = replica_step.describe(sizes, True)
    inputs = replica_step.make(case, 0, CPU)
    exact = replica_step.truth(inputs)
    for contestant in replica_step.CONTESTANTS:
        assert contestant.available(case) is None
        assert replica_step.error(contestant.prepare(inputs)(), exact) < 1e-5
    assert replica_step.error([2 * weights for weights in exact], exact) == pytest.approx(1)
