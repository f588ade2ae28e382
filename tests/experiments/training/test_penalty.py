"""Tests penalties: their gradients in every engine, the two modes, where they act, and resuming."""

import math
from pathlib import Path

import pytest
import torch

from ncfast import losses
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import load_digits
from ncfast.experiments.training.penalty import METRICS, RAMP, Penalty, log_metric, norms_of
from ncfast.experiments.training.program import ReplicaProgram
from ncfast.moments import class_moments

CPU = torch.device("cpu")


def config(**changes):
    settings = {"out": Path("unused"), "widths": (30, 20), "device": "cpu", "init_scale": 1.0}
    return TrainConfig(**{**settings, **changes})


def batch(replicas=3, count=40, dim=9, number=4):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(replicas, count, dim, generator=generator)
    return features, torch.randint(number, (replicas, count), generator=generator)


@pytest.mark.parametrize("name", METRICS)
def test_gradient_of_the_logarithm(name):
    features, labels = batch()
    value, gradient = log_metric(METRICS[name], features, labels, 5)  # one class is absent
    for row in range(3):
        x = features[row].double().requires_grad_()
        moments = class_moments(x, labels[row], num_classes=5, differentiable=True)
        alone = losses.metric(METRICS[name], moments).log()
        assert value[row].item() == pytest.approx(alone.item(), rel=1e-6)
        expected = torch.autograd.grad(alone, x)[0]
        torch.testing.assert_close(gradient[row].double(), expected, rtol=1e-4, atol=1e-7)


def run(steps, configs):
    program = ReplicaProgram(configs, load_digits()[0], CPU)
    for number in range(steps):
        program.step(number)
    return program


def weights(program):
    return program.tiles[0].engine.parameters


def state_of(program, name):
    return torch.cat([tile.penalty.state[name] for tile in program.tiles])


@pytest.mark.parametrize("penalty", ["rnc1", "quotient", "cdnv", "etf", "random"])
def test_a_ratio_is_kept(penalty):
    configs = [config(seed=s, penalty=penalty, penalty_mode="ratio:0.5") for s in (1, 2)]
    program = run(5, configs)
    ratio = state_of(program, "penalty") / state_of(program, "loss")
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.5))


@pytest.mark.parametrize("wanted", [0.2, 3.0])
def test_a_servo_holds_its_target(wanted):
    """Weights are small and steps large, so that the controller gets there soon."""
    steps = RAMP + 1500
    mode = f"servo:{wanted}"
    program = run(steps, [config(penalty="quotient", penalty_mode=mode, penalty_from="100")])
    tile = program.tiles[0]
    found = math.exp(tile.penalty.state["value"].item() - tile.penalty.state["start"].item() / 20)
    free = run(steps, [config(penalty="quotient", penalty_mode=mode, penalty_from=str(steps + 1))])
    assert not state_of(free, "count").any()
    assert found < 1.5 * wanted if wanted < 1 else found > 0.5 * wanted


def test_it_starts_and_ends_where_it_is_told_to():
    kept = {"penalty": "cdnv", "penalty_mode": "ratio:1"}
    until = run(30, [config(**kept, penalty_from="10", penalty_until=20)])
    before, during = run(10, [config()]), run(10, [config(**kept, penalty_from="10")])
    for one, two in zip(weights(before), weights(during), strict=True):
        assert one.equal(two)
    assert not until.tiles[0].penalty.running
    assert not state_of(until, "strength").any()
    never = run(30, [config()])
    pairs = zip(weights(until), weights(never), strict=True)
    assert not all(one.equal(two) for one, two in pairs)


@pytest.mark.parametrize("penalty", ["quotient", "random"])
def test_resuming_is_exact(penalty):
    configs = [config(seed=s, penalty=penalty, penalty_from="5") for s in (1, 2)]
    whole, part = run(130, configs), run(110, configs)
    again = ReplicaProgram(configs, load_digits()[0], CPU)
    for replica in range(2):
        state = {name: value.clone() for name, value in part.state(replica).items()}
        again.load(replica, state)
    for number in range(110, 130):
        again.step(number)
    for replica in range(2):
        for name, value in whole.state(replica).items():
            assert again.state(replica)[name].equal(value), name


def test_a_replica_that_is_not_pushed_is_untouched():
    configs = [config(seed=s, penalty="rnc1", penalty_from="fit") for s in (1, 2)]
    program = run(3, configs)
    program.begin_penalty(1)
    plain = run(3, [config(seed=s) for s in (1, 2)])
    program.step(3)
    plain.step(3)
    for one, two in zip(weights(program), weights(plain), strict=True):
        assert one[0].equal(two[0])
    assert program.tiles[0].penalty.state["active"].tolist() == [0, 1]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(
    ("layers", "factors"),
    [("classifier", (0, 0, 1)), ("hidden", (1, 1, 0)), ("1,0,4", (1, 0, 4)), ("all", (1, 1, 1))],
)
def test_weight_decay_by_layer(layers, factors, optimizer):
    """Without a gradient AdamW only decays: one step multiplies a layer by 1 - lr decay factor."""
    data = load_digits()[0]
    made = config(weight_decay_layers=layers, weight_decay=0.5, lr=0.1, optimizer=optimizer)
    tile = ReplicaProgram([made], data, CPU).tiles[0]
    before = [p.clone() for p in tile.engine.parameters]
    tile.optimizer.step()
    pairs = zip(before, tile.engine.parameters, strict=True)
    for index, (one, two) in enumerate(pairs):
        torch.testing.assert_close(two, one * (1 - 0.05 * factors[index // 2]))


def test_adam_eps_is_used():
    large = run(5, [config(adam_eps=1e3)])
    small = run(5, [config()])
    start = ReplicaProgram([config()], load_digits()[0], CPU)
    moved = [
        float(norms_of([a - b for a, b in zip(weights(p), weights(start), strict=True)]))
        for p in (large, small)
    ]
    assert moved[0] < 0.1 * moved[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"penalty_mode": "ratio"}, "penalty_mode"),
        ({"penalty_mode": "ratio:-1"}, "penalty_mode"),
        ({"penalty_mode": "servo:1"}, "penalty_mode"),
        ({"penalty_mode": "servo:nan"}, "penalty_mode"),
        ({"penalty": "random", "penalty_mode": "servo:0.1"}, "no value to hold"),
        ({"penalty_from": "later"}, "penalty_from"),
        ({"weight_decay_layers": "some"}, "weight_decay_layers"),
        ({"weight_decay_layers": "1,-2"}, "weight_decay_layers"),
        ({"adam_eps": 0.0}, "adam_eps"),
    ],
)
def test_bad_settings(changes, words):
    with pytest.raises(ValueError, match=words):
        config(**changes)


def test_factors_for_another_number_of_layers():
    with pytest.raises(ValueError, match="each of the 3 layers"):
        ReplicaProgram([config(weight_decay_layers="1,2")], load_digits()[0], CPU)


def test_a_value_that_is_not_finite_pushes_nothing():
    penalty = Penalty([config(penalty="cdnv", penalty_mode="servo:0.1")], ["features.a"], 2, CPU)
    penalty.begin(0)
    gradients = [torch.ones(1, 3)]
    for _ in range(30):
        penalty.state["value"].fill_(math.inf)
        penalty.add(gradients, [torch.full((1, 3), torch.nan)])
    assert gradients[0].tolist() == [[1, 1, 1]]
