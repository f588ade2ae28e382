"""Runs one small case of every operation: ``pytest benchmarks --benchmark-only``."""

import pytest
import torch

from ncfast.benchmarks.operations import OPERATIONS

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CASES = [
    pytest.param(operation, contestant, id=f"{operation.name}-{contestant.name}")
    for operation in OPERATIONS.values()
    if not operation.when_named
    for contestant in operation.contestants
    if contestant.kind == "ncfast"
]


@pytest.mark.parametrize(("operation", "contestant"), CASES)
def test_operation(benchmark, operation, contestant):
    case = min(operation.cases(True), key=lambda each: each.bytes)
    reason = contestant.available(case)
    if reason:
        pytest.skip(reason)
    inputs = operation.make(case, 0, DEVICE)
    call = contestant.prepare(inputs)
    assert operation.error(call(), operation.truth(inputs)) <= contestant.allowed(case)
    benchmark.pedantic(_waiting(call), rounds=10, warmup_rounds=1)


def _waiting(call):
    if DEVICE.type == "cpu":
        return call

    def finished():
        call()
        torch.cuda.synchronize()

    return finished
