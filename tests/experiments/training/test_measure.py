"""Tests the measures of a log point that are not metrics of the catalogue."""

from pathlib import Path

import pytest
import torch

from ncfast.experiments import run_dir
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import load_digits
from ncfast.experiments.trainer import train
from ncfast.experiments.training.measure import measure_split, measure_weights
from ncfast.experiments.training.probe import features_of
from ncfast.experiments.training.program import ReplicaProgram
from ncfast.experiments.training.readout import RIDGES, fit_readouts, readouts_of
from ncfast.tracking.sinks import read_records

CPU = torch.device("cpu")


def config(**changes):
    settings = {"out": Path("unused"), "widths": (30, 20), "device": "cpu", "init_scale": 1.0}
    return TrainConfig(**{**settings, **changes})


def program(steps=0, configs=None):
    found = ReplicaProgram(configs or [config(seed=s) for s in (1, 2)], load_digits()[0], CPU)
    for number in range(steps):
        found.step(number)
    return found


def features(replicas=2, count=60, dim=7, classes=4):
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(classes, (count,), generator=generator)
    means = torch.randn(classes, dim, generator=generator)
    noise = torch.randn(replicas, count, dim, generator=generator)
    return means[labels] + noise + 5, labels


@pytest.mark.parametrize("split", [0, 1])
def test_the_shape_of_the_features(split):
    made = program(20)
    weight = made.tiles[0].engine.parameters[2]  # two units of the last hidden layer, killed
    weight[1, :2] = 0
    made.tiles[0].engine.parameters[3][1, :2] = -1
    data = load_digits()[split]
    found = measure_split(made, data, "x")
    for replica in range(2):
        x = features_of(made, replica, data).double()
        norms = x.norm(dim=1)
        means = torch.stack([x[data.labels == c].mean(0) for c in range(10)])
        within = (x - means[data.labels]).square().sum(1).mean()
        expected = {
            "within_trace": within,
            "norm_ratio": norms.max() / norms.mean(),
            "common_offset": x.mean(0).norm() / norms.mean(),
            "dead_units": (x == 0).all(0).double().mean(),
        }
        for name, value in expected.items():
            assert found[replica][f"x/{name}"].item() == pytest.approx(value.item(), rel=1e-6), name
        assert found[replica]["x/rnc1.max"].item() == pytest.approx(
            (within / norms.max().square()).item(), rel=1e-6
        )
    assert found[1]["x/dead_units"] >= 0.1


def refitted(x, hot, ridge):
    """The prediction of each sample by a ridge with a free intercept on all others."""
    found = []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        a, b = x[others], hot[others]
        centre, level = a.mean(0), b.mean(0)
        gram = (a - centre).T @ (a - centre) + ridge * torch.eye(x.shape[1], dtype=x.dtype)
        weight = torch.linalg.solve(gram, (a - centre).T @ (b - level))
        found.append((x[i] - centre) @ weight + level)
    return torch.stack(found)


def test_the_ridge_is_the_best_of_all_refits():
    feats, labels = features()
    found = fit_readouts(feats, labels, 5)
    hot = torch.nn.functional.one_hot(labels, 5).double()
    for replica in range(2):
        x = feats[replica].double()
        centred = x - x.mean(0)
        scale = centred.square().sum().item() / x.shape[1]
        refits = [refitted(x, hot, ridge * scale) for ridge in RIDGES]
        errors = [(hot - predicted).square().sum().item() for predicted in refits]
        best = errors.index(min(errors))
        assert 0 < best < len(RIDGES) - 1  # the best of the grid is inside it
        accuracy = (refits[best].argmax(1) == labels).double().mean().item()
        assert found.left_out[replica].item() == pytest.approx(accuracy)
        gram = centred.T @ centred + RIDGES[best] * scale * torch.eye(7, dtype=torch.float64)
        weight = torch.linalg.solve(gram, centred.T @ (hot - hot.mean(0)))
        torch.testing.assert_close(found.ridge[0][replica], weight)


def test_readouts_classify_other_samples():
    feats, labels = features(count=80)
    found = fit_readouts(feats[:, :50], labels[:50], 5)  # class 4 is absent
    correct = found.correct(feats[:, 50:], labels[50:])
    for replica in range(2):
        x, y = feats[replica].double(), labels
        means = torch.stack([x[:50][y[:50] == c].mean(0) for c in range(4)])
        nearest = torch.cdist(x[50:], means).argmin(1)
        assert correct[0, replica] == (nearest == y[50:]).sum()
        weight, bias = (part[replica] for part in found.ridge)
        scores = (x[50:] - x[:50].mean(0)) @ weight + bias
        assert correct[1, replica] == (scores.argmax(1) == y[50:]).sum()
        assert correct[1, replica] > 15


def test_one_diverged_replica_leaves_the_others_alone():
    feats, labels = features()
    broken = feats.clone()
    broken[0, 3, 2] = torch.inf
    found, whole = (fit_readouts(x, labels, 5).correct(x, labels) for x in (broken, feats))
    assert found[:, 0].isnan().all()
    assert found[:, 1].equal(whole[:, 1])
    assert fit_readouts(broken, labels, 5).left_out.isnan().tolist() == [True, False]


def test_readouts_at_a_probe():
    train, test = load_digits()
    made = program(150)
    readouts = readouts_of(made, train)
    tested, trained = (
        measure_split(made, split, "test" if split is test else "train", readouts)
        for split in (test, train)
    )
    for replica in range(2):
        x, y = features_of(made, replica, train).unsqueeze(0), train.labels
        unseen = features_of(made, replica, test).unsqueeze(0)
        alone = fit_readouts(x, y, 10)
        nearest, ridge = (alone.correct(unseen, test.labels)[:, 0] / len(test.labels)).tolist()
        assert tested[replica]["test/nearest_mean_accuracy"].item() == pytest.approx(nearest)
        assert tested[replica]["test/ridge_accuracy"].item() == pytest.approx(ridge, abs=0.002)
        assert trained[replica]["train/ridge_accuracy"].equal(readouts.left_out[replica])
        assert 0.5 < ridge <= 1
    without = measure_split(made, test, "test")[0]
    assert "test/ridge_accuracy" not in without


@pytest.mark.parametrize("changes", [{}, {"penalty": "quotient"}, {"penalty": "random"}])
def test_the_norm_of_the_gradient_is_that_of_the_loss_alone(changes):
    configs = [config(seed=s, **changes) for s in (1, 2)]
    plain = [config(seed=s) for s in (1, 2)]
    pushed, alone = program(0, configs), program(0, plain)
    assert "loss.gradient_norm" not in measure_weights(pushed, 0)
    pushed.step(0)
    alone.step(0)  # the same weights and batch: the gradient of the loss is the same
    for replica in range(2):
        tile, row = alone.place(replica)
        hidden = zip(tile.engine.names, tile.engine.gradients, strict=True)
        squares = [
            g[row].double().square().sum() for n, g in hidden if not n.startswith("classifier")
        ]
        expected = torch.stack(squares).sum().sqrt().item()
        for made in (pushed, alone):
            found = measure_weights(made, replica)["loss.gradient_norm"].item()
            assert found == pytest.approx(expected, rel=1e-6)


def test_records_have_the_measures_where_they_are_told_to(tmp_path):
    settings = {"schedule": "every:5", "test_schedule": "every:10", "probes": "every:20"}
    train(config(out=tmp_path / "run", steps=20, information=0, **settings))
    records = {r["step"]: r for r in read_records(tmp_path / "run" / "metrics.jsonl")}
    for step, record in records.items():
        assert ("loss.gradient_norm" in record) is (step > 0)
        for split in ("train", "test") if step % 10 == 0 else ("train",):
            for name in ("within_trace", "norm_ratio", "common_offset", "dead_units"):
                assert f"{split}/{name}" in record
            for name in ("nearest_mean_accuracy", "ridge_accuracy"):
                assert (f"{split}/{name}" in record) is (step % 20 == 0)
    named = run_dir.load_config(tmp_path / "run")["conventions"]
    assert {"loss.gradient_norm", "within_trace", "common_offset", "ridge_accuracy"} <= set(named)
