"""Tests ``ncfast info --check-gpu``: what it prints, and how it ends."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from stand_in_gpu import CPU, StandIn

from ncfast import cli
from ncfast.ops._background import python
from ncfast.ops._verdicts import Subject, verdict
from ncfast.ops.scatter import SCATTER
from ncfast.self_check import command
from ncfast.self_check.supervisor import Supervision


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_the_command_fails_in_one_line(capsys):
    assert cli.main(["info", "--check-gpu"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("ncfast: the GPU kernels cannot be checked: ")
    assert "backend reference" in captured.out, "the rest is shown"


def test_other_options_are_refused(capsys):
    assert cli.main(["info", "--check"]) == 2
    assert cli.main(["info", "--help"]) == 0
    assert "ncfast info [--check-gpu]" in capsys.readouterr().out


def checked_by(worker, subjects, environment):
    """`check_device` with another worker on the CPU."""

    def check_device(file, facts, visible, report, *, alone):
        def start(left):
            request = {"subjects": left, "device": "cpu", "facts": None, "alone": alone}
            return python(worker, json.dumps(request))

        Supervision(file, facts, start, environment, report=report).run(subjects)

    return check_device


def test_verdicts_are_printed_kept_and_shown(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    gpu = StandIn(monkeypatch, tmp_path)
    gpu.judge((SCATTER.name, "old", "float32", ("ok",)))
    subjects = [Subject(SCATTER.name, path, "float32") for path in ("right", "wrong")]
    monkeypatch.setattr(command, "check_device", checked_by("broken_worker", subjects, os.environ))
    monkeypatch.setattr(command, "why_not_triton", lambda: None)
    assert cli.main(["info", "--check-gpu"]) == 0
    captured = capsys.readouterr()
    assert "cuda:0 (Stand-in 9000): the scatter matrix, right, float32: ok" in captured.err
    assert "the scatter matrix, wrong, float32: failed: scatter: " in captured.err
    assert "self-check         cuda:0 (Stand-in 9000): the scatter matrix, right" in captured.out
    assert not verdict(SCATTER.name, "old", torch.float32, CPU).usable, "it was checked anew"
    assert verdict(SCATTER.name, "right", torch.float32, CPU).usable


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_the_kernels_in_the_interpreter_get_a_good_verdict(monkeypatch, tmp_path):
    """Every part is the real one but the device."""
    gpu = StandIn(monkeypatch, tmp_path)
    subjects = [Subject(SCATTER.name, "", "float32"), Subject("projections", "", "bfloat16")]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    check = checked_by("ncfast.self_check.worker", subjects, environment)
    check(gpu.table.file, gpu.table.facts, "0", None, alone=True)
    gpu.clock += 10
    feats = torch.randn(40, 3)
    assert SCATTER.select("auto", feats) == SCATTER.if_proven
    assert SCATTER.select("auto", feats.half()) is SCATTER.reference


def test_a_folder_that_cannot_be_written_is_no_error(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    StandIn(monkeypatch, tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    subjects = [Subject(SCATTER.name, "right", "float32")]
    check = checked_by("broken_worker", subjects, os.environ)
    monkeypatch.setattr(command, "check_device", check)
    monkeypatch.setattr(command, "why_not_triton", lambda: None)
    assert cli.main(["info", "--check-gpu"]) == 0
    captured = capsys.readouterr()
    assert "the verdicts cannot be kept" in captured.err
    assert "XDG_CACHE_HOME" in captured.err
    assert "the scatter matrix, right: float32 ok" in captured.out
