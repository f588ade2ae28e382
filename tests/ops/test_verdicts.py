"""Tests where verdicts are kept, under which key, and what is read from a damaged file."""

import os
import time

import pytest
import torch
from stand_in_gpu import CPU, FACTS, StandIn

import ncfast
from ncfast.ops import _auto, _verdicts
from ncfast.ops._verdicts import Subject, verdict, write


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    return StandIn(monkeypatch, tmp_path)


GOOD = ("scatter", "", "float32", ("ok",))
BAD = ("scatter", "", "bfloat16", ("failed", "scatter: 1e+03 times the allowed error"))


def look(dtype=torch.float32, operation="scatter", path=""):
    return verdict(operation, path, dtype, CPU)


def test_without_a_file_nothing_is_known(gpu):
    assert not look().usable
    assert "ncfast info --check-gpu" in str(look())


def test_a_verdict_holds_for_its_operation_path_and_dtype(gpu):
    gpu.judge(GOOD, BAD)
    assert look().usable
    assert str(look(torch.bfloat16)) == "failed: scatter: 1e+03 times the allowed error"
    for other in (look(torch.float16), look(path="other"), look(operation="decisions")):
        assert other.state == "unchecked"


@pytest.mark.parametrize("fact", ["device", "capability", "multiprocessors", "driver"])
def test_a_verdict_holds_for_this_device_and_these_versions(gpu, fact):
    gpu.judge(GOOD)
    gpu.facts[0] = {**FACTS, fact: "another"}
    _verdicts.forget()
    assert look().state == "unchecked"
    gpu.facts[0] = {**FACTS}
    _verdicts.forget()
    assert look().usable


def test_the_key_names_every_version():
    software = _verdicts._software()
    assert software["ncfast"] == ncfast.__version__
    assert software["torch"] == torch.__version__
    assert {"driver", "runtime", "triton", "code"} < software.keys()


def test_the_key_follows_the_code_of_the_kernels(monkeypatch, tmp_path):
    before = _verdicts._code()
    (tmp_path / "added.py").write_text("")
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(_verdicts.importlib.util, "find_spec", lambda name: spec)
    assert _verdicts._code() != before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"finished": true}', '{"verdicts": [[1]]}'])
def test_a_damaged_file_holds_nothing(gpu, content):
    gpu.judge(GOOD)
    gpu.table.file.write_text(content)
    _verdicts.forget()
    assert look().state == "unchecked"


def test_a_reader_never_sees_half_a_file(gpu, monkeypatch):
    gpu.judge(GOOD)
    file = gpu.table.file
    before = file.read_text()

    def write_text(path, text):
        path.write_bytes(b"{")
        raise OSError("the disk is full")

    monkeypatch.setattr(_verdicts.Path, "write_text", write_text)
    with pytest.raises(OSError, match="full"):
        write(file, FACTS, [], finished=True)
    assert file.read_text() == before
    assert os.listdir(file.parent) == [file.name]


def test_a_check_that_died_while_it_ran_kernels_marks_them(gpu):
    gpu.judge(GOOD, ("decisions", "", "float32", ("running",)), finished=False)
    assert look(operation="decisions").state == "running"
    long_ago = time.time() - 2 * _verdicts.GROUP_SECONDS - 60
    os.utime(gpu.table.file, (long_ago, long_ago))
    _verdicts.forget()
    assert look(operation="decisions").state == "crashed"
    assert look().usable


def test_new_verdicts_are_seen_within_seconds(gpu):
    assert not look().usable
    name, found = Subject(*GOOD[:3]), _verdicts.Verdict("ok")
    write(gpu.table.file, FACTS, [(name, found)], finished=True)
    _verdicts.refresh(CPU)
    assert not look().usable, "the file was read a moment ago"
    gpu.clock += 2
    _verdicts.refresh(CPU)
    assert look().usable


def test_no_home_is_no_error(gpu, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(_verdicts.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("none")))
    assert _verdicts.folder() is None
    assert look().state == "unchecked"


def test_other_devices_have_no_verdict():
    assert verdict("scatter", "", torch.float32, CPU).state == "unchecked"
    assert "not a CUDA device" in verdict("scatter", "", torch.float32, CPU).reason


@pytest.mark.parametrize(("said", "expected"), [("1", True), ("0", False)])
def test_the_variable_overrides_verdicts(gpu, monkeypatch, said, expected):
    gpu.judge(GOOD, BAD)
    monkeypatch.setenv("NCFAST_TRITON", said)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        assert _auto.proven("scatter", "", dtype, CPU) is expected
        assert _auto.offered("scatter", dtype, CPU, 1 << 20) is expected
    assert not gpu.started
    assert f"NCFAST_TRITON is {said}" in ncfast.backends()["triton"].reason


def test_a_variable_that_says_something_else_is_ignored_with_a_warning(gpu, monkeypatch):
    gpu.judge(GOOD)
    monkeypatch.setenv("NCFAST_TRITON", "yes")
    with pytest.warns(RuntimeWarning, match="NCFAST_TRITON to be 0, 1 or empty but got 'yes'"):
        assert _auto.proven("scatter", "", torch.float32, CPU)


def test_the_table_is_shown_with_reasons(gpu, capsys):
    status = ncfast.backends()["triton"]
    assert status.verdicts == ("cuda:0 (Stand-in 9000): unchecked",)
    assert '"auto" takes none before a self-check has run' in status.reason
    gpu.judge(GOOD, BAD, ("class moments", "one launch", "float32", ("ok",)))
    status = ncfast.backends()["triton"]
    assert "cuda:0 2 of 3 checks passed" in status.reason
    assert status.verdicts == (
        "cuda:0 (Stand-in 9000): scatter: float32 ok; "
        "bfloat16 failed: scatter: 1e+03 times the allowed error",
        "cuda:0 (Stand-in 9000): class moments, one launch: float32 ok",
    )
