"""Tests that a replica trained in a group equals the same replica trained alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ncfast.benchmarks.plain.training import Trainer
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import load_digits, make_gaussians
from ncfast.experiments.training.program import ReplicaProgram

CPU = torch.device("cpu")


def config(**changes):
    settings = {"out": Path("unused"), "widths": (20, 16), "device": "cpu", "init_scale": 2.0}
    return TrainConfig(**{**settings, **changes})


def grid(**changes):
    """Six replicas that differ in seed, decay, rate and scale: one tile and a half."""
    return [
        config(seed=seed, weight_decay=decay, lr=lr, init_scale=scale, **changes)
        for seed, decay, lr, scale in [
            (1, 0.0, 1e-3, 1.0),
            (2, 0.1, 1e-3, 2.0),
            (3, 0.3, 2e-3, 1.0),
            (4, 0.1, 5e-4, 4.0),
            (5, 0.3, 1e-3, 2.0),
            (6, 0.01, 1e-3, 2.0),
        ]
    ]


def trained(configs, data, steps, **options):
    program = ReplicaProgram(configs, data, CPU, **options)
    for _ in range(steps):
        program.step()
    return program


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": "ce"},
        {"activation": "smooth-leaky-relu", "last_activation": False},
        {"activation": "gelu"},
        {"activation": "tanh", "loss": "ce"},
        {"optimizer": "sgd", "momentum": 0.9, "lr": 1e-4},
        {"optimizer": "gd", "lr": 1e-5},
        {"batch_size": 70},
    ],
)
def test_replicas_equal_the_sequential_trainer(changes):
    data = load_digits()[0]
    configs = [replace(one, **changes) for one in grid()]
    program = trained(configs, data, 100)
    for replica, one in enumerate(configs):
        alone = Trainer(one, data, CPU)
        for _ in range(100):
            alone.step()
        for name, value in alone.model.state_dict().items():
            # Adam divides by the root of the averages: tiny ones amplify rounding errors.
            torch.testing.assert_close(
                program.model_state(replica)[name], value, rtol=2e-3, atol=2e-4, msg=str(changes)
            )


@pytest.mark.parametrize("which", [0, 3, 5])
def test_a_replica_does_not_see_its_neighbours(which):
    data = load_digits()[0]
    together = trained(grid(), data, 60)
    other = trained([grid()[which], config(seed=99, lr=1.0)], data, 60)
    alone = trained([grid()[which]], data, 60)
    for name, value in together.model_state(which).items():
        assert torch.equal(value, other.model_state(0)[name]), name
        torch.testing.assert_close(value, alone.model_state(0)[name], rtol=1e-5, atol=1e-6)


def test_no_replica_is_left_in_a_tile_of_its_own():
    program = ReplicaProgram([config(seed=seed) for seed in range(9)], make_gaussians()[0], CPU)
    assert [len(tile.batches.orders) for tile in program.tiles] == [4, 5]


def test_tiles_do_not_change_the_result():
    data = load_digits()[0]
    one, other = (trained(grid(), data, 30, tile=tile) for tile in (1, 6))
    for replica in range(6):
        for name, value in one.model_state(replica).items():
            assert torch.equal(value, other.model_state(replica)[name]), name


@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd", "momentum": 0.9, "lr": 1e-4}])
def test_state_restores_every_replica(changes):
    data = load_digits()[0]
    configs = [replace(one, **changes) for one in grid()]
    program = trained(configs, data, 13)
    saved = [
        {name: value.clone() for name, value in program.state(replica).items()}
        for replica in range(6)
    ]
    again = ReplicaProgram(configs, data, CPU)
    for replica, state in enumerate(saved):
        again.load(replica, state)
    for _ in range(9):
        program.step()
        again.step()
    for replica in range(6):
        for name, value in program.state(replica).items():
            assert torch.equal(value, again.state(replica)[name]), name


def test_replicas_must_fit_together():
    data = make_gaussians()[0]
    with pytest.raises(ValueError, match="but got 2 kinds"):
        ReplicaProgram([config(), config(widths=(3,))], data, CPU)
    with pytest.raises(ValueError, match="at least one replica"):
        ReplicaProgram([], data, CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_step_equals_an_eager_one():
    device = torch.device("cuda")
    data = load_digits()[0].to(device)
    captured = ReplicaProgram(grid(batch_size=70), data, device)
    eager = ReplicaProgram(grid(batch_size=70), data, device)
    for _ in range(20):
        captured.step()
        for tile in eager.tiles:
            tile._run(tile.batches.indices().to(device))
    for replica in range(6):
        for name, value in captured.model_state(replica).items():
            torch.testing.assert_close(value, eager.model_state(replica)[name])
