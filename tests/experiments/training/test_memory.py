"""Tests the estimate of memory of replicas, and their split into groups."""

from pathlib import Path

import pytest
import torch

from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import make_gaussians
from ncfast.experiments.training import memory

CPU = torch.device("cpu")
CONFIG = TrainConfig(out=Path("x"), widths=(100, 100), batch_size=50)


def test_bytes_count_state_and_activations():
    train = make_gaussians(dim=32)[0]
    parameters = 32 * 100 + 100 + 100 * 100 + 100 + 100 * 10 + 10
    outputs = 32 + 4 * 100 + 10  # flatten, two linear layers with activations, classifier
    expected = 4 * (4 * parameters + 2 * outputs * 50 + 50 * 32)
    assert memory.replica_bytes(CONFIG, train) == expected


def test_groups_fill_half_of_the_memory():
    train = make_gaussians(dim=32)[0]
    one = memory.replica_bytes(CONFIG, train)
    assert memory.group_size(CONFIG, train, CPU, free=20 * one) == 10
    assert memory.group_size(CONFIG, train, CPU, free=0) == 1
    assert memory.group_size(CONFIG, train, CPU) > 100
    assert memory.free_memory(CPU) > 1 << 28


@pytest.mark.parametrize(
    ("number", "most", "at_least", "sizes"),
    [
        (7, 3, 1, [3, 2, 2]),
        (6, 6, 1, [6]),
        (6, 100, 4, [2, 2, 1, 1]),
        (2, 1, 5, [1, 1]),
        (0, 3, 1, []),
    ],
)
def test_split_evenly(number, most, at_least, sizes):
    parts = memory.split_evenly(range(number), most, at_least)
    assert [len(part) for part in parts] == sizes
    assert [item for part in parts for item in part] == list(range(number))
