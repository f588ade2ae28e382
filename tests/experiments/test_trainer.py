"""Tests the trainer: steps, logs, checkpoints, exact resume and damaged files."""

import json
import math
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ncfast.benchmarks.plain.training import Trainer
from ncfast.cli import main
from ncfast.experiments import run_dir, trainer
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.report import build_report
from ncfast.experiments.run_dir import LOGGED, RunDirectoryError
from ncfast.experiments.trainer import load_splits, pick_device, train
from ncfast.experiments.training import checkpoint
from ncfast.tracking.sinks import read_records


def config(out, **changes):
    settings = {
        "steps": 60,
        "widths": (20, 20),
        "schedule": "every:10",
        "probes": "every:30",
        "information": 0,
        "device": "cpu",
    }
    return TrainConfig(out=out, **{**settings, **changes})


def log(path):
    return (path / run_dir.METRICS_FILE).read_text()


def weights(path):
    return {k: v for k, v in load_file(path / run_dir.CHECKPOINT).items() if k.startswith("model/")}


def test_a_run_leaves_everything_behind(tmp_path):
    outcome = train(config(tmp_path))
    assert outcome.finished
    records = list(read_records(tmp_path / "metrics.jsonl"))
    assert [record["step"] for record in records] == [0, 10, 20, 30, 40, 50, 60]
    for split in ("train", "test"):
        wanted = {f"{split}/{name}" for name in (*LOGGED, "accuracy", "loss")}
        assert wanted <= set(records[-1])
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["seed"] == 42
    assert set(about["versions"]) == {"ncfast", "torch", "numpy", "python"}
    assert about["metrics"] == [*LOGGED, "weight.norm"]
    assert "Sigma_W" in about["conventions"]
    assert about["settings"]["weight_decay"] == 0.01


def test_weights_are_bitwise_those_of_a_plain_loop_that_measures_nothing(tmp_path):
    """200 steps of F2's network on the digits, by autograd and torch.optim."""
    settings = config(
        tmp_path, steps=200, widths=(200, 200, 200), schedule="every:20", test_schedule="every:70"
    )
    train(settings)
    tracked = weights(tmp_path)
    from ncfast.experiments.data import load_digits

    bare = Trainer(settings, load_digits()[0], torch.device("cpu"))
    for _ in range(200):
        bare.step()
    for name, value in bare.model.state_dict().items():
        assert torch.equal(tracked[f"model/{name}"], value), name


def test_the_seed_decides_and_the_global_stream_does_not(tmp_path):
    torch.manual_seed(0)
    train(config(tmp_path / "a"))
    torch.manual_seed(123)
    state = torch.get_rng_state()
    train(config(tmp_path / "b"))
    assert torch.equal(torch.get_rng_state(), state), "nor does the run touch it"
    train(config(tmp_path / "c", seed=1))
    assert log(tmp_path / "a") == log(tmp_path / "b")
    assert log(tmp_path / "a") != log(tmp_path / "c")


def test_the_first_step_is_the_papers(tmp_path):
    """All parameters times 8, AdamW, summed squared loss: one update by hand."""
    from ncfast.experiments.data import load_digits

    data = load_digits()[0]
    trainer = Trainer(config(tmp_path), data, torch.device("cpu"))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    index = torch.randperm(200, generator=torch.Generator().manual_seed(42))[:100]
    x, y = data.batch(index)
    trainer.model.zero_grad()
    loss = (trainer.model(x) - torch.eye(10)[y]).square().sum()
    grads = torch.autograd.grad(loss, list(trainer.model.parameters()))
    trainer.step()
    for old, grad, new in zip(before, grads, trainer.model.parameters(), strict=True):
        # the first step of Adam is lr * sign, up to eps; decay is decoupled
        expected = old * (1 - 1e-3 * 0.01) - 1e-3 * grad / (grad.abs() + 1e-8)
        torch.testing.assert_close(new.detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cut", [10, 35, 59])
def test_resume_gives_the_same_run_bit_for_bit(tmp_path, cut):
    train(config(tmp_path / "whole"))
    train(config(tmp_path / "cut", steps=cut))
    train(config(tmp_path / "cut", steps=60, resume=True))
    state = load_file(tmp_path / "whole" / run_dir.CHECKPOINT)
    again = load_file(tmp_path / "cut" / run_dir.CHECKPOINT)
    assert state.keys() == again.keys()
    for name, value in state.items():
        assert torch.equal(value, again[name]), name
    kept = {record["step"]: record for record in read_records(tmp_path / "cut" / "metrics.jsonl")}
    for record in read_records(tmp_path / "whole" / "metrics.jsonl"):
        # the last step of the short run was looked at more closely
        assert record.items() <= kept[record["step"]].items()


def test_resume_after_a_kill_drops_what_the_checkpoint_does_not_know(tmp_path):
    train(config(tmp_path / "whole"))
    killed = tmp_path / "killed"
    train(config(killed, steps=30))
    path = killed / run_dir.METRICS_FILE
    path.write_text(path.read_text() + '{"step": 40, "train/accuracy": 9}\n{"step": 50, "tr')
    train(config(killed, resume=True))
    assert log(killed) == log(tmp_path / "whole")


def test_a_finished_run_resumes_to_nothing(tmp_path):
    train(config(tmp_path))
    before = log(tmp_path)
    assert train(config(tmp_path, resume=True)).finished
    assert log(tmp_path) == before


def test_an_output_directory_with_another_run_is_refused(tmp_path):
    train(config(tmp_path))
    before = log(tmp_path)
    with pytest.raises(RunDirectoryError, match=r"already holds a run.*--resume"):
        train(config(tmp_path, seed=7))
    with pytest.raises(
        RunDirectoryError, match="seed was 42 and is 7; weight_decay was 0.01 and is 0.3"
    ):
        train(config(tmp_path, seed=7, weight_decay=0.3, resume=True))
    with pytest.raises(RunDirectoryError, match="no checkpoint to resume from"):
        train(config(tmp_path / "new", resume=True))
    assert log(tmp_path) == before


def test_a_damaged_checkpoint_is_named(tmp_path):
    train(config(tmp_path))
    path = tmp_path / run_dir.CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunDirectoryError, match=r"checkpoint\.safetensors cannot be resumed from"):
        train(config(tmp_path, resume=True))


def save_with_checksum(state, path):
    """A checkpoint that says of itself that it is whole."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(state, path, metadata | {"sha256": checkpoint.checksum(state, metadata)})


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def with_times(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def without(name):
    return lambda state: state.pop(name)


def with_tensor(name, value):
    return lambda state: state.update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            with_tensor("optimizer/0/exp_avg", torch.zeros(3)),
            r"exp_avg to hold \(20, 64\)",
        ),
        (with_tensor("model/classifier.bias", torch.zeros(10).double()), "float32 but it holds"),
        (with_tensor("model/classifier.bias", torch.full((10,), math.nan)), "finite values"),
        (without("optimizer/1/exp_avg_sq"), "expected optimizer/1/exp_avg_sq, which is missing"),
        (without("order/generator"), "expected order/generator, which is missing"),
        (with_tensor("model/other", torch.zeros(1)), "tensors of this run but got model/other"),
        (with_tensor("step", torch.tensor(-5)), "'step' to be an int64 of 0 or more but got -5"),
        (with_tensor("step", torch.tensor(60.0)), "'step' to be an int64"),
        (with_tensor("step", torch.tensor(10**18)), "is at step 1000000000000000000, past"),
        (with_tensor("order/permutation", torch.arange(200) // 2), "no permutation of 200"),
        (with_tensor("order/position", torch.tensor(-1)), "position -1"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_before_it_is_used(tmp_path, change, message):
    train(config(tmp_path))
    path = tmp_path / run_dir.CHECKPOINT
    state = load_file(path)
    change(state)
    save_with_checksum(state, path)
    before = files_of(tmp_path)
    with pytest.raises(RunDirectoryError, match=message) as refused:
        train(config(tmp_path, steps=70, resume=True))
    assert "\n" not in str(refused.value)
    assert files_of(tmp_path) == before


def test_a_checkpoint_of_version_0_1_is_refused_in_one_line(tmp_path):
    train(config(tmp_path))
    path = tmp_path / run_dir.CHECKPOINT
    save_file(load_file(path), path)
    with pytest.raises(RunDirectoryError, match=r"it was written by version 0\.1") as refused:
        train(config(tmp_path, resume=True))
    assert "\n" not in str(refused.value)


def test_one_bit_of_a_checkpoint_is_noticed(tmp_path):
    train(config(tmp_path))
    path = tmp_path / run_dir.CHECKPOINT
    content = path.read_bytes()
    for at in (len(content) - 1, len(content) // 2, len(content) - 20_000):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(RunDirectoryError, match=r"SHA-256 sum .* the file is damaged"):
            train(config(tmp_path, resume=True))


def test_a_run_that_diverged_can_be_resumed(tmp_path):
    """Its weights are NaN because it made them so; other replicas of its sweep go on too."""
    train(config(tmp_path, lr=1e30, optimizer="sgd", steps=20))
    assert not weights(tmp_path)["model/classifier.weight"].isfinite().all()
    assert train(config(tmp_path, lr=1e30, optimizer="sgd", steps=30, resume=True)).step == 30


def test_settings_that_were_edited_are_noticed(tmp_path):
    """The checkpoint knows the settings that it was trained with."""
    train(config(tmp_path))
    path = tmp_path / run_dir.CONFIG
    path.write_text(path.read_text().replace('"batch_size": 100', '"batch_size": 10'))
    saved = run_dir.load_settings(tmp_path)
    with pytest.raises(
        RunDirectoryError,
        match=r"config\.json: expected 'settings.batch_size' to be 100, with which the checkpoint "
        "was trained, but got 10",
    ):
        train(replace(saved, resume=True))


@pytest.mark.parametrize("stored", [60, 30])
def test_resuming_with_fewer_steps_than_were_made_changes_nothing_and_says_so(
    tmp_path, stored, capsys
):
    train(config(tmp_path))
    before = with_times(tmp_path)
    capsys.readouterr()
    assert main(["train", "--out", str(tmp_path), "--resume", "--steps", f"{stored - 10}"]) == 1
    message = capsys.readouterr().err
    assert f"is at step 60, past --steps {stored - 10}. Nothing was changed." in message
    assert message.count("\n") == 1
    assert with_times(tmp_path) == before


def test_a_log_of_version_0_1_is_still_read(tmp_path):
    """Its records have fewer keys, and there is no file of probes."""
    train(config(tmp_path))
    (tmp_path / "probes.jsonl").unlink()
    kept = ("step", "weight.norm", "train/accuracy", "test/accuracy", "train/loss", "test/loss")
    kept += tuple(f"{split}/{name}" for split in ("train", "test") for name in LOGGED[:-1])
    records = [
        {key: record[key] for key in kept if key in record}
        for record in read_records(tmp_path / "metrics.jsonl")
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "metrics.jsonl").write_text(lines)
    assert build_report([tmp_path]).html.exists()


def test_records_that_a_checkpoint_knows_and_the_log_lacks_are_reported_once(tmp_path):
    train(config(tmp_path))
    path = tmp_path / run_dir.METRICS_FILE
    lines = log(tmp_path).splitlines(keepends=True)
    path.write_text("".join(lines[:2]))
    with pytest.warns(RuntimeWarning, match=r"to hold 7 records up to step 60, .* but it holds 2"):
        train(config(tmp_path, steps=70, resume=True))
    train(config(tmp_path, steps=80, resume=True))  # a warning would be an error
    assert [record["step"] for record in read_records(path)] == [0, 10, 70, 80]


def test_two_processes_do_not_train_one_run(tmp_path):
    train(config(tmp_path / "run"))
    before = files_of(tmp_path / "run")
    holder = "import sys, fcntl, os; fcntl.flock(os.open(sys.argv[1], 0), 2); print(flush=True)"
    command = [sys.executable, "-c", f"{holder}; input()", str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(RunDirectoryError, match="Another process is training the run"):
            train(config(tmp_path / "run", steps=70, resume=True))
        assert files_of(tmp_path / "run") == before
        other.communicate(b"\n")
    assert train(config(tmp_path / "run", steps=70, resume=True)).step == 70


def test_a_run_is_not_resumed_on_other_data(tmp_path, monkeypatch):
    """The files of two datasets can have the same names, and --data-dir may change."""
    train(config(tmp_path / "run"))
    before = files_of(tmp_path / "run")

    def others(config, device):
        splits = load_splits(config, device)
        return splits[0], replace(splits[1], inputs=splits[1].inputs.flip(0))

    monkeypatch.setattr(trainer, "load_splits", others)
    for changes in ({"resume": True}, {"start_from": tmp_path / "run", "out": tmp_path / "other"}):
        with pytest.raises(RunDirectoryError, match="was trained on other data"):
            train(replace(config(tmp_path / "run", steps=70), **changes))
    assert files_of(tmp_path / "run") == before


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    train(config(tmp_path))
    path = tmp_path / run_dir.CHECKPOINT
    before = path.read_bytes()

    real = Path.write_bytes

    def full(path, data):
        if "checkpoint" not in path.name:
            return real(path, data)
        real(path, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"could not write the checkpoint.*No space left"):
        train(config(tmp_path, steps=70, resume=True))
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {
        "config.json",
        "metrics.header.json",
        "metrics.jsonl",
        "probes.jsonl",
        "checkpoint.safetensors",
    }


def test_a_file_that_cannot_be_replaced_is_named(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/config\.json'"):
        run_dir.write_config(config(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_log_that_cannot_grow_stops_with_one_clear_line(tmp_path):
    """A limit on file sizes cuts a record in two, as a full disk does."""
    command = [sys.executable, "-m", "ncfast", "train", "--steps", "50", "--widths", "4"]
    options = ["--schedule", "every", "--probes", "every:100", "--out", str(tmp_path)]
    limit = 40_000
    done = subprocess.run(
        [*command, *options],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    message = [line for line in done.stderr.splitlines() if line.startswith("ncfast:")]
    assert len(message) == 1
    assert "File too large" in message[0]
    assert "the records before it are whole" in message[0]
    assert "Traceback" not in done.stderr
    assert log(tmp_path).endswith("}\n")
    again = subprocess.run(
        [sys.executable, "-m", "ncfast", "train", "--out", str(tmp_path), "--resume"],
        capture_output=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert len(log(tmp_path).splitlines()) == 51


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_resume(tmp_path, number):
    out = tmp_path / "run with space"
    options = ["--dataset", "digits", "--widths", "20", "--schedule", "every:50", "--out", str(out)]
    command = [sys.executable, "-m", "ncfast", "train", *options]
    running = subprocess.Popen(
        [*command, "--steps", "100000000"], stdout=-1, stderr=subprocess.PIPE, text=True
    )
    deadline = time.time() + 60
    while time.time() < deadline:
        if (out / "metrics.jsonl").exists() and '"step": 150,' in log(out):
            break
        time.sleep(0.1)
    running.send_signal(number)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "the state is saved" in errors
    line = errors.splitlines()[-1].strip()
    assert line.startswith("ncfast train")
    assert line.endswith("--resume")
    # The printed command works without changes.
    words = shlex.split(line)[1:]
    step = int(load_file(out / run_dir.CHECKPOINT)["step"])
    assert step > 100
    done = subprocess.run(
        [sys.executable, "-m", "ncfast", *words, "--steps", str(step + 5)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(load_file(out / run_dir.CHECKPOINT)["step"]) == step + 5


def test_kill_9_leaves_a_log_that_replays(tmp_path):
    command = [sys.executable, "-m", "ncfast", "train", "--widths", "20", "--schedule", "every"]
    running = subprocess.Popen(
        [*command, "--out", str(tmp_path / "r"), "--checkpoint-every", "50"], stderr=subprocess.PIPE
    )
    path = tmp_path / "r" / "metrics.jsonl"
    deadline = time.time() + 60
    while time.time() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") > 120:
            break
        time.sleep(0.05)
    running.kill()
    running.communicate()
    steps = [record["step"] for record in read_records(path)]
    assert steps == list(range(len(steps)))
    assert len(steps) > 120
    assert os.WIFSIGNALED(-running.returncode) or running.returncode == -9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "`steps` to be positive and finite but got 0"),
        ({"batch_size": -1}, "`batch_size` to be positive"),
        ({"weight_decay": -0.1}, "`weight_decay` to be zero or more"),
        ({"widths": ()}, "`widths` to be positive sizes"),
    ],
)
def test_bad_settings(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_a_bad_schedule_leaves_no_directory(tmp_path):
    with pytest.raises(ValueError, match="Expected a schedule"):
        train(config(tmp_path / "x", schedule="sometimes"))
    with pytest.raises(ValueError, match="train_size"):
        train(config(tmp_path / "x", train_size=10**6))
    assert not (tmp_path / "x").exists()


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="`device` to exist here but got 'warp:9'"):
        pick_device("warp:9")
    with pytest.raises(ValueError, match="`device` to exist here but got 'meta'"):
        pick_device("meta")


def test_a_directory_that_cannot_be_made_or_holds_a_sweep_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "zero\0"):
        with pytest.raises(RunDirectoryError, match="`out` to be a directory .* Choose another"):
            train(config(out))
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="holds a sweep"):
        train(config(tmp_path / "sweep"))
    assert len(files_of(tmp_path / "sweep")) == 1


@pytest.mark.parametrize("dataset", ["synthetic", "digits"])
@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_every_loss_and_small_dataset(tmp_path, dataset, loss):
    train(config(tmp_path, dataset=dataset, loss=loss, steps=20, init_scale=1.0))
    records = list(read_records(tmp_path / "metrics.jsonl"))
    assert records[-1]["train/loss"] < records[0]["train/loss"]


def test_real_mnist_starts_where_the_reference_run_does(tmp_path, data_dir):
    """The seed fixes the initialisation: step 0 equals the printed digits of the reference."""
    full = TrainConfig(out=tmp_path, dataset="mnist", steps=10, data_dir=data_dir, device="cpu")
    train(replace(full, schedule="every:10"))
    first = next(read_records(tmp_path / "metrics.jsonl"))
    assert first["train/accuracy"] == pytest.approx(0.084, abs=5e-4)
    assert first["test/accuracy"] == pytest.approx(0.0917, abs=5e-4)
    assert first["train/loss"] == pytest.approx(2.99e5, rel=2e-3)
    assert first["train/rnc1.max"] == pytest.approx(9.541e-2, rel=1e-3)
    assert first["train/rnc1.mean"] == pytest.approx(2.856e-1, rel=1e-3)
    assert first["train/nc2.condition"] == pytest.approx(30.90, rel=1e-3)
