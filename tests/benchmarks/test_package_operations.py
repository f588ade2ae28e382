"""Tests the operations with installed packages: right ones pass, and wrong numbers are shown."""

import json
import math

import pytest
import torch

from ncfast.benchmarks.operations import (
    packages_information,
    packages_nc1,
    packages_training,
    packages_vocabulary,
)
from ncfast.benchmarks.plain import packages
from ncfast.benchmarks.registry import Case
from ncfast.benchmarks.runner import Conditions, run_case

CPU = torch.device("cpu")


def outputs(operation, case):
    """Error, contestant and numbers by name, of the contestants that can run here."""
    inputs = operation.make(case, 0, CPU)
    truth = operation.truth(inputs)
    found = {}
    for contestant in operation.contestants:
        if contestant.available(case) is None:
            output = contestant.prepare(inputs)()
            error, numbers = operation.error(output, truth), operation.values(output)
            found[contestant.name] = (error, contestant, numbers)
    return found


def information(data, columns=1, **more):
    sizes = {"N": 1500, "columns": columns, "k": 5, "data": data, **more}
    return Case(sizes, 1, 1, promise=0.1, budget=0.1)


def test_every_package_estimates_a_gaussian():
    case = information(packages_information.GAUSSIAN, rho=0.6)
    found = outputs(packages_information.OPERATION, case)
    assert {"ncfast", "scikit-learn mutual_info_regression"} <= set(found)
    for name, (error, contestant, _) in found.items():
        assert error <= contestant.allowed(case), name


def test_several_columns_leave_out_who_takes_one():
    case = information(packages_information.GAUSSIAN, columns=2, rho=0.6)
    found = outputs(packages_information.OPERATION, case)
    assert "ncfast" in found
    assert not any(name.startswith(("scikit-learn", "ennemi")) for name in found)


def test_a_wrong_estimate_is_kept_with_its_number(monkeypatch):
    sizes = information(packages_information.RELU, rho=0.6).sizes
    monkeypatch.setattr(packages_information, "QUICK", [sizes])
    (case,) = packages_information.cases(True)
    entry = run_case(packages_information.OPERATION, case, Conditions(CPU, 0.01, 1 << 20))
    exact = entry["truth"]["nats"]
    assert exact == pytest.approx(0.152, abs=1e-3)
    by_name = {result["contestant"]: result for result in entry["results"] if "error" in result}
    assert by_name["ncfast"]["ok"]
    for result in by_name.values():
        off = abs(result["values"]["nats"] - exact) / 0.5
        assert off == pytest.approx(result["error"])
        assert result["ok"] == (off <= 0.1)
    assert "warnings" in by_name["ncfast"]["values"]
    assert set(entry["load"]) == {"before", "after"}
    assert len(entry["day"].split("-")) == 3
    json.dumps(entry, allow_nan=False)


def test_packages_count_declared_integers_alike():
    (case,) = packages_information.discrete_cases(True)
    found = outputs(packages_information.DISCRETE_OPERATION, case)
    assert len(found) >= 3
    plugged_in = found["ncfast discrete_mutual_information"][2]["nats"]
    for name, (error, contestant, numbers) in found.items():
        assert error <= contestant.allowed(case), name
        if "miller" not in name:
            assert numbers["nats"] == pytest.approx(plugged_in, rel=1e-9), name


def test_an_error_is_of_the_truth_or_of_half_a_nat():
    error = packages_information.error
    assert error({"nats": 2.2}, {"nats": 2.0}) == pytest.approx(0.1)
    assert error({"nats": 0.05}, {"nats": 0.0}) == pytest.approx(0.1)
    assert math.isnan(error({"nats": math.nan}, {"nats": 0.1}))


@pytest.mark.parametrize("name", ["scikit_learn", "ennemi"])
def test_packages_of_one_column_refuse_more(name):
    two = torch.zeros(20, 2)
    with pytest.raises(NotImplementedError, match="one column a side"):
        getattr(packages, name)(two, two, k=3)


def nc1(spread):
    sizes = {"N": 1200, "D": 24, "K": 7, "spread": spread, "dtype": "float32"}
    return Case(sizes, 1, 1)


def test_every_package_gives_nc1():
    case = nc1(0.5)
    found = outputs(packages_nc1.OPERATION, case)
    assert len(found) >= 7
    for name, (error, contestant, numbers) in found.items():
        assert error <= contestant.allowed(case), name
        assert set(numbers) == {packages_nc1.ID}


def test_collapsed_features_part_right_from_wrong():
    found = outputs(packages_nc1.OPERATION, nc1(1e-6))
    assert found["ncfast"][0] < 1e-6
    assert found["scikit-learn GaussianNB"][0] > 1e-3
    assert found["two passes, float32, 512 rows"][0] > 1e-3


def test_everyone_reads_the_stream_of_a_vocabulary():
    sizes = {"K": 400, "D": 12, "B": 128, "batches": 2, "again": 2, "labels": "Zipf"}
    case = Case(sizes, 1, 1, budget=1e-2)
    found = outputs(packages_vocabulary.OPERATION, case)
    assert len(found) == 4
    for name, (error, contestant, output) in found.items():
        assert error <= contestant.allowed(case), name
        assert set(output) == set(packages_vocabulary.IDS)
    exact = found["torch, two passes, float64"][2]
    assert packages_vocabulary.error({n: 2 * v for n, v in exact.items()}, exact) == 1
    del exact["nc2.equinorm"]
    with pytest.raises(LookupError, match=r"\['nc2.equinorm'\] are missing"):
        packages_vocabulary.error(exact, packages_vocabulary.truth(_stream(case)))


def _stream(case):
    return packages_vocabulary.make(case, 0, CPU)


def test_the_long_stream_has_two_million_tokens_and_no_masks():
    long, short = packages_vocabulary.cases(False)
    rows = [c.sizes["B"] * c.sizes["batches"] * c.sizes["again"] for c in (long, short)]
    assert abs(rows[0] - 2_000_000) < 8192
    masks = packages_vocabulary.OPERATION.contestants[-1]
    assert "over" in masks.available(long)
    assert masks.available(short) is None


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("number", [0, 1])
def test_every_training_logs_what_is_true(number):
    case = packages_training.cases(True)[number]
    found = outputs(packages_training.OPERATION, case)
    numbers = {}
    for name, (error, contestant, kept) in found.items():
        assert error <= contestant.allowed(case), name
        assert kept.get("records", case.sizes["steps"]) == case.sizes["steps"], name
        numbers[name] = kept.get("numbers a record", 0)
    assert numbers["the training alone, nothing logged"] == 0
    assert numbers["torchmetrics accuracy, mean, Calinski-Harabasz"] == 3
    assert numbers["ncfast Tracker, standard tier"] > numbers["ncfast Tracker, default set"] > 7


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_second_training_starts_a_new_log():
    case = packages_training.cases(True)[0]
    inputs = packages_training.make(case, 0, CPU)
    for contestant in packages_training.OPERATION.contestants:
        call = contestant.prepare(inputs)
        first, again = call(), call()
        if first is not None:
            assert len(again.read_text().splitlines()) == case.sizes["steps"], contestant.name
