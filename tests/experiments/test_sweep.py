"""Tests sweeps: files, interruption, exact resume and errors."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ncfast.experiments import run_dir, sweep_file
from ncfast.experiments import sweep as sweep_module
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.report import build_report
from ncfast.experiments.run_dir import RunDirectoryError
from ncfast.experiments.sweep import sweep
from ncfast.experiments.sweep_config import SweepConfig
from ncfast.experiments.trainer import train
from ncfast.experiments.training import group as group_module
from ncfast.experiments.training.group import InterruptFlag
from ncfast.tracking.sinks import read_records


def config(out, **changes):
    settings = {
        "out": out,
        "steps": 40,
        "widths": (12, 12),
        "schedule": "every:10",
        "weight_decay": (0.3, 0.1),
        "seeds": 2,
        "probes": "every:20",
        "information": 0,
        "device": "cpu",
    }
    return SweepConfig(**{**settings, **changes})


NAMES = ["wd0.3-seed42", "wd0.3-seed43", "wd0.1-seed42", "wd0.1-seed43"]


def log(path):
    return (path / run_dir.METRICS_FILE).read_text()


def states(out):
    return {name: load_file(out / name / run_dir.CHECKPOINT) for name in NAMES}


def assert_same(one, other):
    for name in NAMES:
        assert log(one / name) == log(other / name)
        assert (one / name / "probes.jsonl").read_text() == (
            other / name / "probes.jsonl"
        ).read_text()
        for key, value in states(one)[name].items():
            assert torch.equal(value, states(other)[name][key]), (name, key)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "sweep"
    assert sweep(config(out)).finished
    return out


def test_every_replica_leaves_a_run_behind(whole):
    assert sorted(p.name for p in whole.iterdir() if p.is_dir()) == sorted(NAMES)
    assert json.loads((whole / "sweep.json").read_text())["replicas"] == NAMES
    for name in NAMES:
        records = list(read_records(whole / name / "metrics.jsonl"))
        assert [r["step"] for r in records] == [0, 10, 20, 30, 40]
        for key in ("accuracy", "loss", "rnc1.max", "nc2.condition", "bound.generalization_trace"):
            assert {f"train/{key}", f"test/{key}"} <= set(records[-1])
        assert {"weight.norm", "balancedness"} <= set(records[-1])
        assert "test/bound.superfluous@0.1" in records[-1]
        assert "test/bound.superfluous@0.1" not in records[1]


def test_the_report_of_a_sweep(whole, tmp_path):
    report = build_report([whole], tmp_path)
    names = {path.stem for path in report.pictures}
    assert names == {"curves", "bounds", "information", "weights", "margins", "components"}
    assert {path.stem for path in report.tables} == names
    for path in report.tables:
        assert len(path.read_text().splitlines()) > 5, path
    text = report.html.read_text()
    for part in ("4 runs: MLP on digits", "What the runs say", "tau_2", "wd0.1-seed43"):
        assert part in text


def test_information_is_estimated_with_its_error(tmp_path):
    small = config(tmp_path / "s", steps=20, weight_decay=(0.3,), seeds=1, information=1000)
    assert sweep(small).finished
    last = list(read_records(tmp_path / "s" / NAMES[0] / "metrics.jsonl"))[-1]
    for name in ("inputs", "labels", "superfluous"):
        assert last[f"test/information.{name}@0.1"] == pytest.approx(1.5, abs=1.5)
        assert 0 < last[f"test/information.{name}_stderr@0.1"] < 1
    report = build_report([tmp_path / "s"])
    assert "plane" in {path.stem for path in report.pictures}


def test_a_replica_logs_what_the_trainer_logs(whole, tmp_path):
    settings = json.loads((whole / NAMES[2] / "config.json").read_text())["settings"]
    train(TrainConfig.from_settings(settings, tmp_path / "alone"))
    pairs = zip(
        read_records(whole / NAMES[2] / "metrics.jsonl"),
        read_records(tmp_path / "alone" / "metrics.jsonl"),
        strict=True,
    )
    for many, alone in pairs:
        assert many.keys() == alone.keys()
        assert many == pytest.approx(alone, rel=1e-3)


def test_the_trainer_continues_a_replica(whole, tmp_path):
    folder = tmp_path / "replica"
    folder.mkdir()
    for name in (run_dir.CONFIG, run_dir.METRICS_FILE, "probes.jsonl", run_dir.CHECKPOINT):
        (folder / name).write_bytes((whole / NAMES[0] / name).read_bytes())
    settings = json.loads((folder / "config.json").read_text())["settings"]
    again = replace(TrainConfig.from_settings(settings, folder), resume=True, steps=50)
    assert train(again).step == 50
    assert [r["step"] for r in read_records(folder / "metrics.jsonl")] == [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize("stop", [0, 1, 25])
def test_an_interrupted_sweep_resumes_bit_for_bit(whole, tmp_path, monkeypatch, stop):
    """Two groups; the first is stopped after ``stop`` steps, the second never begins."""
    out = tmp_path / "cut"
    real = group_module.ReplicaProgram.step
    taken = []

    def step(self, number):
        real(self, number)
        taken.append(1)
        if len(taken) > stop:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(group_module.ReplicaProgram, "step", step)
    assert not sweep(config(out, group_size=2)).finished
    monkeypatch.setattr(group_module.ReplicaProgram, "step", real)
    assert not (out / NAMES[2] / "metrics.jsonl").exists()
    assert sweep(config(out, group_size=2, resume=True)).finished
    assert_same(whole, out)
    before = log(out / NAMES[0])
    assert sweep(config(out, group_size=4, resume=True)).finished
    assert log(out / NAMES[0]) == before


def test_a_kill_between_the_checkpoints_of_a_group_is_survived(whole, tmp_path, monkeypatch):
    """One replica has saved step 20, the others step 10; and one had only been prepared."""
    out = tmp_path / "killed"
    real = group_module.checkpoint.save

    def save(out, step, tensors, settings):
        if step == 20 and out.name != NAMES[0]:
            raise KeyboardInterrupt
        real(out, step, tensors, settings)

    monkeypatch.setattr(group_module.checkpoint, "save", save)
    with pytest.raises(KeyboardInterrupt):
        sweep(config(out, checkpoint_every=10))
    monkeypatch.setattr(group_module.checkpoint, "save", real)
    (out / NAMES[3] / run_dir.CHECKPOINT).unlink()
    assert sweep(config(out, checkpoint_every=10, resume=True)).finished
    for name in NAMES:
        for many, one in zip(
            read_records(out / name / "metrics.jsonl"),
            read_records(whole / name / "metrics.jsonl"),
            strict=True,
        ):
            assert many == pytest.approx(one, rel=1e-3)


def test_ranks_share_the_replicas(whole, tmp_path, monkeypatch):
    out = tmp_path / "ranks"
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        outcome = sweep(config(out))
        assert outcome.finished
        assert not outcome.alone
        begun = [(out / name / "metrics.jsonl").exists() for name in NAMES]
        assert begun == [True, True, rank == 1, rank == 1]
    assert_same(whole, out)


def ranked(monkeypatch, rank, count):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(count))


def test_the_share_of_a_rank_does_not_depend_on_what_the_others_have_done(
    whole, tmp_path, monkeypatch
):
    """Rank 0 has finished, and there is less memory, before the next rank looks."""
    out = tmp_path / "ranks"
    begun = set()
    for rank in range(4):
        ranked(monkeypatch, rank, 4)
        monkeypatch.setattr(sweep_module, "group_size", lambda *_, most=4 - rank: most)
        assert sweep(config(out)).finished
        now = {name for name in NAMES if (out / name / "metrics.jsonl").exists()}
        assert now - begun == {NAMES[rank]}
        begun = now
    for rank in range(3):  # another number of ranks continues them
        ranked(monkeypatch, rank, 3)
        assert sweep(config(out, resume=True, steps=50)).finished
    for name in NAMES:
        steps = [record["step"] for record in read_records(out / name / "metrics.jsonl")]
        assert steps == [0, 10, 20, 30, 40, 50]


def test_another_rank_continues_no_run_without_resume(whole, monkeypatch):
    """Rank 0 refuses the directory; the other ranks must not train in it until they are ended."""
    ranked(monkeypatch, 1, 2)
    before = states(whole)
    with pytest.raises(RunDirectoryError, match="already holds a run"):
        sweep(config(whole, steps=50))
    with pytest.raises(RunDirectoryError, match="belongs to another sweep"):
        sweep(config(whole, lr=(0.5,)))
    for name in NAMES:
        for key, value in states(whole)[name].items():
            assert torch.equal(value, before[name][key])
    assert len(list(whole.glob("*seed*"))) == 4


def test_a_replica_that_another_process_trains_is_left_alone(tmp_path):
    out = tmp_path / "s"
    assert sweep(config(out, steps=20)).finished
    (out / NAMES[1] / run_dir.CHECKPOINT).unlink()
    before = log(out / NAMES[1])
    with run_dir.claimed(out / NAMES[1]), pytest.raises(RunDirectoryError, match="is training"):
        sweep(config(out, resume=True))
    assert log(out / NAMES[1]) == before
    assert sweep(config(out, resume=True)).finished


@pytest.mark.parametrize(("rank", "count"), [("2", "2"), ("-1", "2"), ("one", "2"), ("0", "0")])
def test_an_environment_that_gives_no_rank(tmp_path, monkeypatch, rank, count):
    ranked(monkeypatch, rank, count)
    with pytest.raises(ValueError, match=f"RANK below WORLD_SIZE .* got RANK='{rank}'"):
        sweep(config(tmp_path / "s"))
    assert not (tmp_path / "s").exists()


def test_other_ranks_wait_for_the_first(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sweep_file, "WAIT_SECONDS", 0.1)
    with pytest.raises(RunDirectoryError, match="was not made by rank 0"):
        sweep(config(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_folder_with_something_else_is_refused(whole, tmp_path):
    with pytest.raises(RunDirectoryError, match=r"is not empty.*--resume"):
        sweep(config(whole))
    with pytest.raises(RunDirectoryError, match=r"seeds was 2 and is 3"):
        sweep(config(whole, seeds=3, resume=True))
    with pytest.raises(RunDirectoryError, match=r"holds no sweep"):
        sweep(config(tmp_path / "new", resume=True))
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="is no JSON object"):
        sweep(config(tmp_path, resume=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_decay": ()}, "`weight_decay` to hold at least one value"),
        ({"lr": (0.0,)}, "`lr` to be positive"),
        ({"weight_decay": (-1.0,)}, "`weight_decay` to be zero or more"),
        ({"seeds": 0}, "`seeds` to be positive"),
        ({"group_size": 0}, "`group_size` to be positive"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        config(Path("x"), **changes)


def test_names_tell_what_differs():
    names = list(config(Path("x"), seeds=1, lr=(1e-3, 1e-4), loss=("mse", "ce")).replicas())
    assert len(names) == 8
    assert names[0] == "mse-lr0.001-wd0.3-seed42"
    assert names[-1] == "ce-lr0.0001-wd0.1-seed42"


def test_ctrl_c_on_the_command_line(tmp_path):
    out = tmp_path / "my sweep"
    command = [sys.executable, "-m", "ncfast", "sweep", "--widths", "8", "--out", str(out)]
    options = ["--weight-decay", "0.3", "0.1", "--seeds", "1", "--steps", "1000000"]
    running = subprocess.Popen(
        [*command, *options, "--schedule", "every:50"], stderr=subprocess.PIPE, text=True
    )
    path = out / "wd0.1-seed42" / "metrics.jsonl"
    deadline = time.time() + 60
    while time.time() < deadline and not (path.exists() and len(path.read_text()) > 5000):
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert errors.splitlines()[-1].strip() == f"ncfast sweep --out '{out}' --resume"
    step = int(load_file(path.parent / run_dir.CHECKPOINT)["step"])
    done = subprocess.run(
        [*command, "--resume", "--steps", str(step + 5)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"Report: {out / 'report.html'}"


def test_the_flag_is_shared_by_all_groups():
    with InterruptFlag() as flag:
        signal.raise_signal(signal.SIGINT)
        assert flag.raised
