"""The update in place: the moments of a stream are compared with float64 before the timing."""

import math

import pytest
import torch

from ncfast.benchmarks.operations import OPERATIONS, update

SIZES = {"K": 30, "D": 20, "B": 100, "batches": 3, "labels": "Zipf"}
CASE = update.describe(SIZES, True)


@pytest.fixture(scope="module")
def inputs():
    return update.make(CASE, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def truth(inputs):
    return update.truth(inputs)


@pytest.mark.parametrize(
    ("operation", "contestant"),
    [
        pytest.param(OPERATIONS[name], contestant, id=f"{name}-{contestant.name}")
        for name in ("update", "update.scatter")
        for contestant in OPERATIONS[name].contestants
    ],
)
def test_a_stream_gives_the_moments_of_all_its_rows(operation, contestant, inputs, truth):
    if contestant.available(CASE):
        pytest.skip(contestant.available(CASE))
    call = contestant.prepare(inputs)
    assert operation.error(call(), truth) <= contestant.allowed(CASE)


@pytest.mark.parametrize("name", ["counts", "means", "within_ss", "norm_max", "scatter"])
def test_a_wrong_result_is_seen(name, inputs, truth):
    found = update.ours_with_scatter(inputs, "reference")()
    assert update.error(found, truth) < 1e-12
    wrong = found | {name: found[name] * 1.5}
    assert update.error(wrong, truth) == pytest.approx(0.5)
    assert math.isnan(update.error(found | {name: found[name] * math.nan}, truth))


def test_words_are_as_frequent_as_their_ranks_say():
    labels = update.labels_of(SIZES | {"B": 20_000}, 0, torch.device("cpu"))
    counts = torch.bincount(labels.flatten(), minlength=30).sort(descending=True).values
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.2)
