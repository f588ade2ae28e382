"""Tests the small datasets: the bundled digits and synthetic classes."""

from typing import get_args

import pytest
import torch

from ncfast.experiments.config import Dataset
from ncfast.experiments.data import DATASETS, load, load_digits, make_gaussians


def test_the_option_names_every_dataset():
    assert set(get_args(Dataset)) == set(DATASETS)


def test_digits():
    train, test = load_digits()
    assert (len(train), len(test), train.input_size) == (200, 1597, 64)
    assert train.inputs.dtype == torch.uint8
    assert int(train.inputs.max()) == 16
    assert torch.bincount(train.labels).min() >= 10, "every class is there"
    x, _ = test.batch(slice(None))
    assert float(x.mean()) == pytest.approx(0, abs=0.01)
    assert float(x.std()) == pytest.approx(1, abs=0.01)


def test_gaussians_are_reproducible_and_leave_the_global_stream_alone():
    state = torch.get_rng_state()
    one, other = make_gaussians(seed=3), make_gaussians(seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one[0].inputs, other[0].inputs)
    assert not torch.equal(one[0].inputs, make_gaussians(seed=4)[0].inputs)
    train, test = load("synthetic", train_size=50)
    assert (len(train), len(test), train.input_size, train.num_classes) == (50, 1000, 32, 10)


def test_batches_cover_the_split_in_order():
    _, test = load_digits()
    parts = list(test.batches(500))
    assert [len(y) for _, y in parts] == [500, 500, 500, 97]
    assert torch.equal(torch.cat([y for _, y in parts]), test.labels)


def test_to_moves_everything():
    moved = load_digits()[0].to("meta")
    assert moved.batch(slice(0, 2))[0].device.type == "meta"
