import json
import subprocess
import sys

import numpy as np
import pytest

from ncfast import cli

GENERATOR = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = np.minimum(np.arange(300) % 7, 3)  # classes of unequal size
    np.savez("data.npz", feats=GENERATOR.standard_normal((300, 8)) + labels[:, None], labels=labels)
    np.save("w.npy", GENERATOR.standard_normal((4, 8)))
    return tmp_path


def test_a_table_and_a_file(folder, capsys):
    options = ["--weight", "w.npy", "--metrics", "nc1", "nc4.agreement", "--out", "found.json"]
    assert cli.main(["eval", "data.npz", "data.npz", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "300 samples, 4 classes, 8 columns"
    assert lines[-1] == "Written: found.json"
    record = json.loads((folder / "found.json").read_text())
    assert {"accuracy", "nc1.pinv", "nc4.agreement"} <= record["metrics"].keys()
    assert "nc2.condition" not in record["metrics"]


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["data.npz", "absent.npy"], 1, "ncfast: absent.npy: no such file."),
        (["data.npz", "w.npy"], 1, "ncfast: w.npy: expected integer labels"),
        (["data.npz", "data.npz", "--metrics", "nc9"], 1, "'nc9'"),
        (["data.npz", "data.npz", "--num-classes", "2"], 1, "labels in 0..1"),
        (["data.npz", "data.npz", "--out", "no/x.json"], 1, "no/x.json: the folder does not exist"),
        (["data.npz", "data.npz", "--out", "."], 1, "expected a file to write"),
        (["data.npz", "data.npz", "--num-classes", "-1"], 1, "`num_classes` to be at least 1"),
        (["data.npz"], 2, "LABELS"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, arguments, status, text):
    try:
        found = cli.main(["eval", *arguments])
    except SystemExit as end:
        found = end.code
    assert found == status
    message = capsys.readouterr().err
    assert text in message
    assert len(message.splitlines()) == 1


def test_a_name_with_a_line_break_or_a_control_character_is_shown_on_one_line(folder, capsys):
    assert cli.main(["eval", "data.npz", "no\nsuch\x1b.npy"]) == 1
    assert capsys.readouterr().err == "ncfast: no\\nsuch\\x1b.npy: no such file.\n"


def test_a_device_that_is_not_there_is_one_line(folder, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.main(["eval", "data.npz", "data.npz", "--device", "cuda"]) == 1
    assert capsys.readouterr().err.endswith("torch finds no CUDA device.\n")


def test_under_torchrun_the_first_rank_prints(folder):
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "ncfast"]
    arguments = ["eval", "data.npz", "data.npz", "--weight", "w.npy", "--out", "two.json"]
    done = subprocess.run(
        [sys.executable, *command, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("300 samples, 4 classes") == 1
    assert cli.main([*arguments[:-1], "one.json"]) == 0
    one, two = (json.loads((folder / f"{name}.json").read_text()) for name in ("one", "two"))
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-9)
    assert two["samples"] == 300
