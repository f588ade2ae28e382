import builtins
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

import ncfast
from ncfast import cli


def test_train_then_report(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["train", "--dataset", "digits", "--model", "mlp", "--loss", "mse"]
    arguments += ["--weight-decay", "0.1", "--init-scale", "8", "--train-size", "100"]
    arguments += ["--steps", "30", "--seed", "1", "--widths", "16", "16", "--out", str(out)]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == f"Report: {out / 'report.html'}"
    lines = [line for line in captured.err.splitlines() if line.startswith("step ")]
    assert len(lines) == 31, "one line a log point when not on a terminal"
    assert lines[-1].split()[:2] == ["step", "30/30"]
    assert all(word in lines[-1] for word in ("train", "test", "rnc1"))
    assert cli.main(["report", str(out), "--out", str(tmp_path / "elsewhere")]) == 0
    assert (tmp_path / "elsewhere" / "report.html").exists()
    assert cli.main(arguments) == 1
    assert "already holds a run" in capsys.readouterr().err


def test_a_terminal_gets_a_live_bar(tmp_path):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    options = ["--widths", "8", "--steps", "300", "--schedule", "every:10", "--out", str(tmp_path)]
    running = subprocess.Popen(
        [sys.executable, "-m", "ncfast", "train", *options], stdout=slave, stderr=slave
    )
    os.close(slave)
    seen = b""
    try:
        while part := os.read(master, 4096):
            seen += part
    except OSError:  # how Linux reports that the other side has gone
        pass
    os.close(master)
    assert running.wait() == 0
    bar = [line for line in seen.decode().split("\r") if "300/300" in line][-1]
    assert all(word in bar for word in ("train=", "test=", "rnc1=", "step/s"))


def test_info_names_versions_and_reasons(capsys):
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert ncfast.__version__ in text
    for name, status in ncfast.backends().items():
        assert f"backend {name}" in text
        assert status.reason in text


def test_info_works_without_the_extras(capsys, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split(".")[0] in ("tyro", "tqdm", "sklearn", "matplotlib", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    for module in ("ncfast.experiments.config", "tyro"):
        monkeypatch.delitem(__import__("sys").modules, module, raising=False)
    assert cli.main(["info"]) == 0
    assert cli.main(["train", "--out", "x"]) == 1
    assert "pip install 'ncfast[experiments]'" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["--help"], 0), (["-h"], 0)])
def test_help_lists_the_commands(capsys, arguments, status):
    assert cli.main(arguments) == status
    text = capsys.readouterr().out
    assert all(name in text for name in ("train", "report", "info"))


def test_an_unknown_command(capsys):
    assert cli.main(["trian"]) == 2
    assert "unknown command 'trian'" in capsys.readouterr().err


def test_an_unknown_dataset_directory(tmp_path, capsys):
    arguments = ["train", "--dataset", "mnist", "--data-dir", str(tmp_path), "--out", "run"]
    assert cli.main(arguments) == 1
    assert "train-images-idx3-ubyte.gz: no such file" in capsys.readouterr().err


def test_resume_needs_no_settings_and_refuses_others(tmp_path, capsys):
    out = str(tmp_path / "run")
    settings = ["--widths", "8", "--weight-decay", "0.2", "--schedule", "every:5"]
    assert cli.main(["train", "--steps", "10", "--out", out, *settings]) == 0
    assert cli.main(["train", "--out", out, "--resume", "--steps", "20"]) == 0
    capsys.readouterr()
    assert cli.main(["train", "--out", out, "--resume", "--weight-decay", "0.3"]) == 1
    assert "weight_decay was 0.2 and is 0.3" in capsys.readouterr().err
    assert cli.main(["train", "--out", str(tmp_path), "--resume"]) == 1
    assert "config.json is missing" in capsys.readouterr().err
