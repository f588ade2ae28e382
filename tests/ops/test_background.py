"""Tests when a self-check is started in the background, and when one hint is given instead."""

import json
import multiprocessing
import subprocess
import sys
import time

import pytest
import torch
from stand_in_gpu import CPU, StandIn

from ncfast.ops import _auto, _background, _verdicts

MANY = _background.GAIN


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    return StandIn(monkeypatch, tmp_path)


def ask(entries=MANY):
    return _auto.offered("the scatter matrix", torch.float32, CPU, entries)


def test_the_first_call_that_would_gain_starts_one_check(gpu):
    assert not ask(MANY - 1)
    assert not gpu.started
    for _ in range(3):
        assert not ask(), "nobody waits for it"
    assert len(gpu.started) == 1
    assert "ncfast.self_check.supervisor" in gpu.started[0][2]
    request = json.loads(gpu.started[0][-1])
    assert request["file"] == str(gpu.table.file)
    assert request["facts"] == gpu.table.facts
    assert request["visible"] == "0"


def test_verdicts_that_arrive_are_taken(gpu):
    ask()
    gpu.clock += 10
    name = _verdicts.Subject("the scatter matrix", "", "float32")
    _verdicts.write(
        gpu.table.file, gpu.table.facts, [(name, _verdicts.Verdict("ok"))], finished=False
    )
    assert ask()


def test_a_check_is_started_once_for_a_key(gpu):
    """Another process finds the mark of the first, and says so once."""
    ask()
    _verdicts.forget()
    _background._considered.clear()
    with pytest.warns(UserWarning, match="one was started before and has left no verdict"):
        ask()
    assert len(gpu.started) == 1
    gpu.facts[0]["driver"] = "a new one"
    _verdicts.forget()
    _background._considered.clear()
    ask()
    assert len(gpu.started) == 2


def test_where_verdicts_are_known_nothing_is_started(gpu):
    gpu.judge(("the scatter matrix", "", "float32", ("failed", "wrong")))
    assert not ask()
    assert not gpu.started


SHARED = ["WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"]


@pytest.mark.parametrize("name", SHARED)
def test_jobs_get_a_hint_that_names_the_command(gpu, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    with pytest.warns(UserWarning, match=f"{name} is set.*`ncfast info --check-gpu`"):
        assert not ask()
    assert not ask()  # warnings are errors: there is one hint
    assert not gpu.started


def test_one_rank_speaks_for_all(gpu, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert not ask()  # warnings are errors: none comes


def test_a_hint_never_ends_a_training(gpu, monkeypatch):
    """Warnings are errors in this test."""
    gpu.free = 1 << 30
    assert not ask()


def test_a_full_card_is_left_alone(gpu):
    gpu.free = (4 << 30) - 1
    with pytest.warns(UserWarning, match=r"only 4\.0 GiB"):
        ask()
    assert not gpu.started


def test_processes_of_multiprocessing_start_nothing(gpu, monkeypatch):
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())
    with pytest.warns(UserWarning, match="started by another one"):
        ask()
    assert not gpu.started


@pytest.mark.parametrize("error", [RuntimeError("driver"), OSError("no more processes")])
def test_a_failing_start_is_a_hint(gpu, monkeypatch, error):
    def fail(*given, **named):
        raise error

    where = (
        (torch.cuda, "mem_get_info") if isinstance(error, RuntimeError) else (_background, "Popen")
    )
    monkeypatch.setattr(*where, fail)
    with pytest.warns(UserWarning, match=str(error)):
        assert not ask()


def test_a_folder_that_cannot_be_written_keeps_verdicts_for_this_process(
    gpu, monkeypatch, tmp_path
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    ask()
    assert len(gpu.started) == 1
    file = gpu.table.file
    assert tmp_path not in file.parents
    name = _verdicts.Subject("the scatter matrix", "", "float32")
    _verdicts.write(file, gpu.table.facts, [(name, _verdicts.Verdict("ok"))], finished=True)
    gpu.clock += 10
    assert ask()


def test_a_capture_only_looks_up(gpu):
    gpu.capturing = True
    assert not ask()
    assert not gpu.started
    gpu.capturing = False
    ask()
    assert gpu.started


def test_tracing_only_looks_up(gpu):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert not ask()
    assert not gpu.started


def test_the_started_process_has_this_search_path(monkeypatch, tmp_path):
    (tmp_path / "found_by_path.py").write_text("def main(word):\n    print('main', word)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    command = _background.python("found_by_path", "it")
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True)
    assert done.stdout == "main it\n"


def test_the_device_is_named_for_the_process(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a, 3")
    assert [_background.visible_name(number) for number in (0, 1)] == ["MIG-a", "3"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert _background.visible_name(1) == "1"


def test_running_checks_outlive_the_process(tmp_path):
    """And Python does not warn of a process that is not awaited."""
    later = (
        "import pathlib, sys, time\nhere = pathlib.Path(sys.argv[1])\n"
        "while not (here / 'go').exists(): time.sleep(0.05)\n(here / 'done').touch()"
    )
    code = (
        "import subprocess, sys\nfrom ncfast.ops import _background\n"
        f"command = [sys.executable, '-c', {later!r}, sys.argv[1]]\n"
        "nothing = subprocess.DEVNULL\n"
        "child = subprocess.Popen(command, stdout=nothing, stderr=nothing)\n"
        "_background._running.append(child)\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    (tmp_path / "go").touch()
    for _ in range(600):
        if (tmp_path / "done").exists():
            return
        time.sleep(0.1)
    pytest.fail("it was ended with the process")
