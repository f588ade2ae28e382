"""A record that was logged is in the file, whatever else happens to the file."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from samples import classes

from ncfast._files import replacing
from ncfast.tracking import Tracker, read_records
from ncfast.tracking.sinks import CsvSink, JsonlSink

SINKS = {"jsonl": JsonlSink, "csv": CsvSink}
posix = pytest.mark.skipif(os.name != "posix", reason="locks and kills of POSIX")


def run(body, *arguments):
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(body), *map(str, arguments)])


@posix
@pytest.mark.parametrize("suffix", SINKS)
def test_two_processes_that_open_one_file_again_and_again_lose_no_line(tmp_path, suffix):
    """Opening removes an unfinished line; what the other has just written is none."""
    path = tmp_path / f"log.{suffix}"
    body = """
        import sys
        from pathlib import Path
        from ncfast.tracking.sinks import CsvSink, JsonlSink
        path, who = Path(sys.argv[1]), int(sys.argv[2])
        for opening in range(20):
            sink = (CsvSink if path.suffix == ".csv" else JsonlSink)(path)
            for i in range(25):
                extra = {f"{who}/late": 1.0} if opening > 9 else {}  # CSV gets columns on the way
                sink.write({"step": 25 * opening + i, "who": who, **extra})
            sink.close()
    """
    both = [run(body, path, who) for who in (0, 1)]
    assert [process.wait(120) for process in both] == [0, 0]
    records = list(read_records(path, all=True))
    for who in (0, 1):
        mine = [record for record in records if record["who"] == who]
        assert [record["step"] for record in mine] == list(range(500))
        assert sum(f"{who}/late" in record for record in mine) == 250
    assert len(records) == 1000


def test_two_csv_trackers_of_which_one_adds_a_column(tmp_path):
    path = tmp_path / "log.csv"
    one, two = CsvSink(path), CsvSink(path)
    for step in range(20):
        one.write({"step": step, "a": 1.0})
        two.write({"step": 100 + step, "a": 2.0} | ({"b": 3.0} if step > 5 else {}))
    one.close()
    two.close()
    records = list(read_records(path))
    assert len(records) == 40
    assert sum("b" in record for record in records) == 14
    assert path.read_text().count("step,a") == 1


@posix
@pytest.mark.parametrize("suffix", SINKS)
@pytest.mark.parametrize("how", ["deleted", "renamed", "replaced", "with its folder"])
def test_a_file_that_goes_away_is_made_again_and_said(tmp_path, suffix, how):
    """Records after it are at the path; a log that ends without a word would be lost."""
    feats, labels = classes()
    path = tmp_path / "run" / f"log.{suffix}"
    with Tracker(num_classes=5, metrics="rnc1", sinks=[path], log_cost=False) as tracker:
        tracker.step(feats=feats, labels=labels)
        tracker.flush()
        if how == "with its folder":
            path.parent.rename(tmp_path / "old")
        elif how == "deleted":
            path.unlink()
        else:
            path.rename(path.with_suffix(".1"))
        if how == "replaced":
            path.touch()
        tracker.step(feats=feats, labels=labels)
        with pytest.warns(RuntimeWarning, match=r"log\..* was deleted or renamed"):
            tracker.flush()
        tracker.step(feats=feats, labels=labels)
    assert [record["step"] for record in read_records(path)] == [2, 3]


@pytest.mark.parametrize("suffix", SINKS)
def test_a_rotation_that_empties_the_file(tmp_path, suffix):
    path = tmp_path / f"log.{suffix}"
    sink = SINKS[suffix](path)
    sink.write({"step": 1, "a": 1.0})
    os.truncate(path, 0)
    sink.write({"step": 2, "a": 1.0})
    sink.close()
    assert list(read_records(path)) == [{"step": 2, "a": 1.0}]


@posix
def test_temporary_files_of_a_killed_process_are_removed_at_the_next_opening(tmp_path):
    """And those of a process that is at work are not."""
    body = """
        import os, signal, sys
        from pathlib import Path
        from ncfast._files import replacing
        for name in ("log.jsonl", "log.header.json", "log.csv", "table.txt"):
            replacing(Path(sys.argv[1]) / name).__enter__().write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run(body, tmp_path).wait(120) == -signal.SIGKILL
    own = tmp_path / ".log.jsonl.mine"  # a name of the user's
    own.write_text("")
    assert len(list(tmp_path.iterdir())) == 5
    with replacing(tmp_path / "log.csv") as busy:  # removes the old one of log.csv
        JsonlSink(tmp_path / "log.jsonl").close()
        CsvSink(tmp_path / "log.csv").close()
        assert busy.exists()
        busy.write_text("step\n")
    with replacing(tmp_path / "table.txt") as temporary:
        temporary.write_text("whole")
    names = {entry.name for entry in tmp_path.iterdir()}
    assert names == {".log.jsonl.mine", "log.jsonl", "log.csv", "table.txt"}


@posix
def test_a_file_that_another_process_has_locked_for_good_does_not_hang_the_log(
    tmp_path, monkeypatch
):
    import fcntl

    monkeypatch.setattr("ncfast._files._LOCK_SECONDS", 0.05)
    path = tmp_path / "log.jsonl"
    sink = JsonlSink(path)
    with path.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        start = time.monotonic()
        with pytest.raises(OSError, match="Another process has locked the log"):
            sink.write({"step": 1})
        assert time.monotonic() - start < 5
    sink.write({"step": 2})
    sink.close()
    assert list(read_records(path)) == [{"step": 2}]


def test_a_constructor_that_fails_leaves_no_hook_and_no_open_file(tmp_path):
    """However often a user tries again in a notebook."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    (tmp_path / "file").write_text("")
    for _ in range(3):
        with pytest.raises(OSError, match="file"):
            Tracker(model, num_classes=2, sinks=[tmp_path / "a.jsonl", tmp_path / "file" / "b.csv"])
        with pytest.raises(TypeError, match="Expected a sink"):
            Tracker(model, num_classes=2, sinks=[tmp_path / "a.csv", 3])
        with pytest.raises(ZeroDivisionError):
            Tracker(model, num_classes=2, sinks=[tmp_path / "a.csv"], every=lambda step: 1 // 0)
    assert not any(module._forward_hooks for module in model.modules())
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_sink_of_the_user_is_not_closed_by_a_constructor_that_fails(tmp_path):
    sink = JsonlSink(tmp_path / "log.jsonl")
    with pytest.raises(TypeError, match="Expected a sink"):
        Tracker(num_classes=2, sinks=[sink, 3])
    sink.write({"step": 1})
    sink.close()


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"sink_timeout": None}, TypeError),
        ({"sink_timeout": -1.0}, ValueError),
        ({"flush_seconds": "1"}, TypeError),
        ({"flush_seconds": float("nan")}, ValueError),
        ({"start_step": 2.5}, TypeError),
        ({"on_sink_error": "Raise"}, ValueError),
    ],
)
def test_options_are_checked_before_a_file_is_made(tmp_path, option, error):
    """A mistyped "raise" must not mean "warn", nor a bad number end a later step."""
    (name,) = option
    with pytest.raises(error, match=f"`{name}`"):
        Tracker(num_classes=2, sinks=[tmp_path / "m.jsonl"], **option)
    assert not list(tmp_path.iterdir())
