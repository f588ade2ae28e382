"""Kernels that are wrong, hang, crash or do not compile end in the reference, with a reason."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from stand_in_gpu import FACTS, StandIn

import ncfast
from ncfast.ops import _verdicts
from ncfast.ops._background import python
from ncfast.ops._verdicts import Subject
from ncfast.ops.scatter import SCATTER
from ncfast.self_check.supervisor import Supervision

HERE = Path(__file__).parent


def subject(path, dtype="float32"):
    return Subject(SCATTER.name, path, dtype)


def start(left):
    request = {"subjects": left, "device": "cpu", "facts": None, "alone": True}
    return python("broken_worker", json.dumps(request))


@pytest.fixture
def supervise(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(HERE))

    def run(*paths, seconds=60.0, make=start):
        reported = []
        file = tmp_path / "verdicts.json"
        supervision = Supervision(
            file, FACTS, make, os.environ, seconds, lambda *each: reported.append(each)
        )
        supervision.run([subject(path) for path in paths])
        table = _verdicts.Table(0, FACTS, elsewhere=file)
        _verdicts.read(table)
        assert table.complete
        assert table.verdicts == dict(reported)
        return {name.path: entry for name, entry in table.verdicts.items()}

    return run


def test_right_kernels_pass_and_the_others_say_why(supervise):
    found = supervise("right", "wrong", "does not compile", "talks", "right")
    assert found["right"].usable
    assert found["talks"].usable, "what a compiler prints is no message"
    assert found["wrong"].state == "failed"
    assert "times the allowed error (32 x 70 in 3 classes, spread 1)" in found["wrong"].reason
    assert found["does not compile"] == ("failed", "RuntimeError: PassManager::run failed")


def test_after_a_crash_another_worker_goes_on(supervise):
    found = supervise("crashes", "right")
    assert found["crashes"].state == "crashed"
    assert signal.SIGSEGV.name in found["crashes"].reason
    assert "a last word" in found["crashes"].reason
    assert found["right"].usable


def test_a_hang_is_ended(supervise):
    found = supervise("hangs", "right", seconds=20)
    assert found["hangs"] == ("timed out", "nothing came in 20 s")
    assert found["right"].usable


def dies(left):
    return [sys.executable, "-c", "raise SystemExit('no CUDA runtime')"]


def test_workers_that_never_begin_are_not_started_for_ever(supervise):
    found = supervise("right", "wrong", make=dies)
    for entry in found.values():
        assert entry.state == "unchecked"
        assert "3 crashes or hangs (crashed: the process ended with status 1. no CUDA" in str(entry)


def test_a_device_that_a_second_process_cannot_use_is_unchecked(supervise):
    def refuses(left):
        line = json.dumps({"stop": "a second process cannot use the device: exclusive mode"})
        return [sys.executable, "-c", f"print({line!r})"]

    found = supervise("right", "wrong", make=refuses)
    assert {str(entry) for entry in found.values()} == {
        "unchecked: a second process cannot use the device: exclusive mode"
    }


def test_three_losses_leave_the_rest_unchecked(supervise):
    found = supervise("crashes", "right", make=lambda left: dies_in(left[0]))
    assert found["crashes"].state == "crashed"


def dies_in(first):
    line = json.dumps({"begin": first})
    return [sys.executable, "-c", f"import os; print({line!r}, flush=True); os.abort()"]


@pytest.mark.parametrize("path", ["wrong", "crashes", "does not compile"])
def test_broken_kernels_end_in_the_reference(monkeypatch, tmp_path, supervise, path):
    """From the check to the call, with the reason in `ncfast.backends`."""
    found = supervise("right", path)
    gpu = StandIn(monkeypatch, tmp_path / "cache")
    gpu.judge(
        (SCATTER.name, "", "float32", found[path]), (SCATTER.name, "", "bfloat16", found["right"])
    )
    feats = torch.randn(4096, 20)
    assert SCATTER.select("auto", feats) is SCATTER.reference
    assert SCATTER.select("auto", feats.bfloat16()) == SCATTER.if_proven
    (line,) = ncfast.backends()["triton"].verdicts
    assert found[path].reason in line
    assert "bfloat16 ok" in line
