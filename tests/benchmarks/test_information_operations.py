"""Tests the operations on neighbours and information: right contestants pass, wrong ones do not."""

import pytest
import torch

from ncfast.benchmarks.operations import entropy, knn, mutual_information, plane
from ncfast.benchmarks.registry import Case, Operation

CPU = torch.device("cpu")


def errors(operation: Operation, case: Case) -> dict[str, float]:
    """The errors of the contestants that can run here, by name."""
    inputs = operation.make(case, 0, CPU)
    truth = operation.truth(inputs)
    return {
        contestant.name: operation.error(contestant.prepare(inputs)(), truth)
        for contestant in operation.contestants
        if contestant.available(case) is None
    }


def right(operation: Operation, case: Case) -> dict[str, bool]:
    found = errors(operation, case)
    allowed = {c.name: c.allowed(case) for c in operation.contestants}
    return {name: error <= allowed[name] for name, error in found.items()}


@pytest.mark.parametrize("columns", [2, 7])
def test_every_search_is_right_on_plain_rows(columns):
    found = right(knn.OPERATION, knn.describe({"N": 501, "D": columns, "k": 3}, True))
    assert len(found) >= 5
    assert all(found.values()), found


def test_products_in_float32_are_wrong_on_collapsed_rows():
    sizes = {"N": 400, "D": 20, "k": 3, "spread": 1e-6}
    found = right(knn.OPERATION, knn.describe(sizes, True))
    assert not found.pop("torch cdist + topk, float32")
    assert found["ncfast"]
    assert found["SciPy cKDTree"]


def test_the_error_of_neighbours_is_seen():
    case = knn.describe({"N": 60, "D": 3, "k": 3}, True)
    inputs = knn.make(case, 0, CPU)
    exact = knn.truth(inputs)
    assert knn.error(exact, exact) == 0
    assert knn.error(2 * exact.numpy(), exact) == pytest.approx(1)
    assert knn.error(torch.full_like(exact, torch.nan), exact) != 0


@pytest.mark.parametrize("columns", [1, 3])
def test_every_recipe_gives_the_number_of_the_definition(columns):
    sizes = {"N": 300, "columns": columns, "k": 4}
    found = right(mutual_information.OPERATION, mutual_information.describe(sizes, True))
    assert len(found) >= 5
    assert all(found.values()), found


def test_another_estimate_is_wrong():
    exact = {"linf": 1.0, "l2max": 1.1}
    assert mutual_information.error({"linf": 1.0}, exact) == 0
    assert mutual_information.error({"l2max": 1.0}, exact) == pytest.approx(1 / 11)


def test_the_plane_is_the_same_by_public_trees():
    case = plane.describe({"N": 400, "inputs": 30, "D": 20, "k": 3}, True)
    found = right(plane.OPERATION, case)
    assert len(found) >= 3
    assert all(found.values()), found


def test_every_entropy_is_that_of_the_definition():
    found = right(entropy.OPERATION, entropy.describe({"N": 300, "D": 3, "k": 4}, True))
    assert len(found) >= 3
    assert all(found.values()), found


@pytest.mark.parametrize("columns", [3, 70])
def test_every_engine_is_right(columns):
    found = right(knn.ENGINES, knn.describe({"N": 300, "D": columns, "k": 3}, True))
    assert len(found) >= 2
    assert all(found.values()), found


@pytest.mark.parametrize("module", [entropy, knn, mutual_information, plane])
def test_cases_are_counted(module):
    for quick in (True, False):
        for case in module.OPERATION.cases(quick):
            assert case.bytes > 0
            assert case.flops > case.bytes
            assert case.quick == quick
