"""Tests runs and sweeps that start from the checkpoints of others."""

import json
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from ncfast.cli import main
from ncfast.experiments import run_dir
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.run_dir import RunDirectoryError
from ncfast.experiments.sweep import sweep
from ncfast.experiments.sweep_config import SweepConfig
from ncfast.experiments.trainer import train
from ncfast.tracking.sinks import read_records

SHARED = {"widths": (12, 12), "schedule": "every:10", "probes": "every:40", "information": 0}
SHARED |= {"device": "cpu"}


def config(out, **changes):
    return TrainConfig(out=out, **{"steps": 40, **SHARED, **changes})


def state(out):
    return load_file(out / run_dir.CHECKPOINT)


def same(one, two):
    return one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one)


def test_a_branch_without_a_change_is_the_run_itself(tmp_path):
    train(config(tmp_path / "whole"))
    train(config(tmp_path / "trunk", steps=20))
    train(config(tmp_path / "branch", start_from=tmp_path / "trunk"))
    assert same(state(tmp_path / "whole"), state(tmp_path / "branch"))
    whole, branch = (
        {r["step"]: r for r in read_records(tmp_path / name / "metrics.jsonl")}
        for name in ("whole", "branch")
    )
    assert list(branch) == [20, 30, 40]
    assert all(whole[step].items() >= branch[step].items() for step in (30, 40))
    assert json.loads((tmp_path / "branch/config.json").read_text())["settings"]["start_from"]


def test_arms_share_their_past_and_differ_after_it(tmp_path):
    trunk = tmp_path / "trunk"
    train(config(trunk, steps=20))
    before = state(trunk)
    arms = {"decay": {"weight_decay": 0.9}, "down": {"penalty": "quotient"}, "none": {}}
    for name, changes in arms.items():
        checkpoint = trunk / run_dir.CHECKPOINT
        train(config(tmp_path / name, steps=25, start_from=checkpoint, **changes))
    first = [next(iter(read_records(tmp_path / n / "metrics.jsonl"))) for n in arms]
    metric = "train/nc1.quotient"
    assert first[0][metric] == first[1][metric] == first[2][metric]
    weights = [state(tmp_path / name)["model/features.linear1.weight"] for name in arms]
    assert not weights[0].equal(weights[2])
    assert not weights[1].equal(weights[2])
    assert same(before, state(trunk))


def test_a_branch_is_resumed_like_any_run(tmp_path):
    train(config(tmp_path / "trunk", steps=20))
    changes = {"penalty": "cdnv", "start_from": tmp_path / "trunk"}
    train(config(tmp_path / "whole", **changes))
    train(config(tmp_path / "cut", **changes, steps=30))
    train(config(tmp_path / "cut", **changes, resume=True))
    assert same(state(tmp_path / "whole"), state(tmp_path / "cut"))


def test_a_sweep_starts_from_a_sweep_of_the_same_seeds(tmp_path):
    trunk = SweepConfig(out=tmp_path / "trunk", steps=20, seeds=3, **SHARED)
    sweep(trunk)
    arm = replace(trunk, out=tmp_path / "arm", steps=40, start_from=trunk.out, weight_decay=(0.4,))
    sweep(arm)
    for seed in (42, 43, 44):
        source = trunk.out / f"wd0.01-seed{seed}"
        train(config(tmp_path / f"{seed}", seed=seed, weight_decay=0.4, start_from=source))
        alone, together = state(tmp_path / f"{seed}"), state(arm.out / f"wd0.4-seed{seed}")
        for name, value in alone.items():
            if name.startswith("model/"):
                assert (together[name] - value).abs().max() < 1e-4
            elif name.startswith("order/"):
                assert together[name].equal(value)
    with pytest.raises(ValueError, match="one run of seed 45"):
        replace(arm, out=tmp_path / "more", seeds=4).replicas()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 7}, "`seed` to be 42"),
        ({"widths": (9,)}, "`widths`"),
        ({"loss": "ce"}, "`loss`"),
        ({"steps": 9}, "`steps` to be at least 10, the step of .* but got 9"),
    ],
)
def test_another_run_is_refused_before_anything_is_made(tmp_path, changes, words):
    train(config(tmp_path / "trunk", steps=10))
    with pytest.raises(RunDirectoryError, match=words):
        train(config(tmp_path / "new", start_from=tmp_path / "trunk", **changes))
    if "loss" not in changes:
        many = {**SHARED, "steps": 40, **changes}
        with pytest.raises(RunDirectoryError, match=words):
            sweep(SweepConfig(out=tmp_path / "new", start_from=tmp_path / "trunk", **many))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", [None, b"", b"nonsense" * 100])
def test_no_checkpoint_or_a_damaged_one(tmp_path, content, capsys):
    (tmp_path / "trunk").mkdir()
    if content is not None:
        (tmp_path / "trunk" / run_dir.CHECKPOINT).write_bytes(content)
    given = ["--from", str(tmp_path / "trunk"), "--out", str(tmp_path / "new")]
    assert main(["train", *given]) == 1
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert "checkpoint.safetensors" in said
    assert not (tmp_path / "new").exists()
