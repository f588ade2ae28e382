"""What goes wrong in a long run: training goes on, and what was measured is kept."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
import weakref
from pathlib import Path

import pytest
import torch
from samples import classes
from torch import nn

from ncfast.tracking import Tracker, read_records

PROLOGUE = """
import os, signal, sys, time
import torch, ncfast
feats, labels = torch.randn(40, 6), torch.arange(40) % 4
path = sys.argv[1]
"""


def run(body, path):
    code = PROLOGUE + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120
    )


def steps(path):
    return [record["step"] for record in read_records(path)]


def test_kill_9_leaves_what_was_flushed(tmp_path):
    path = tmp_path / "log.jsonl"
    done = run(
        """
        tracker = ncfast.Tracker(num_classes=4, sinks=[path])
        for step in range(1, 1000):
            tracker.step(feats=feats, labels=labels)
            if step == 300:
                tracker.flush()
            if step == 310:
                os.kill(os.getpid(), signal.SIGKILL)
        """,
        path,
    )
    assert done.returncode == -9
    assert steps(path)[:300] == list(range(1, 301))


@pytest.mark.parametrize("end", ["exit", "exception", "SIGTERM", "collected"])
def test_nothing_is_lost_at_the_end(tmp_path, end):
    path = tmp_path / "log.jsonl"
    done = run(
        f"""
        end = {end!r}
        tracker = ncfast.Tracker(num_classes=4, sinks=[path])
        for _ in range(150):
            tracker.step(feats=feats, labels=labels)
        if end == "exception":
            raise ZeroDivisionError
        if end == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        if end == "collected":
            del tracker
            assert len(list(open(path))) == 150
        """,
        path,
    )
    expected = {"exception": 1, "SIGTERM": -signal.SIGTERM}
    assert done.returncode == expected.get(end, 0), done.stderr
    assert steps(path) == list(range(1, 151))


def test_sigterm_goes_on_to_the_handler_that_was_there(tmp_path, monkeypatch):
    monkeypatch.setattr("ncfast.tracking.shutdown._live", weakref.WeakSet())
    seen, path = [], tmp_path / "log.jsonl"
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(steps(path)))
    try:
        feats, labels = classes()
        with Tracker(num_classes=5, sinks=[path]) as tracker:
            other = Tracker(num_classes=5)
            tracker.step(feats=feats, labels=labels)
            os.kill(os.getpid(), signal.SIGTERM)
            tracker.step(feats=feats, labels=labels)
            other.close()
        assert seen == [[1]]
        assert steps(path) == [1, 2]
        assert signal.getsignal(signal.SIGTERM).__name__ == "<lambda>"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_in_the_middle_of_a_step_waits_for_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("ncfast.tracking.shutdown._live", weakref.WeakSet())
    seen, path = [], tmp_path / "log.jsonl"
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(steps(path)))

    def schedule(step):  # asked in the middle of `step`
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return True

    try:
        feats, labels = classes()
        with Tracker(num_classes=5, every=schedule, sinks=[path]) as tracker:
            for _ in range(3):
                tracker.step(feats=feats, labels=labels)
        assert seen == [[1, 2]]
        assert steps(path) == [1, 2, 3]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_fork_neither_writes_nor_closes(tmp_path):
    path = tmp_path / "log.jsonl"
    done = run(
        """
        tracker = ncfast.Tracker(num_classes=4, sinks=[path])
        tracker.step(feats=feats, labels=labels)
        tracker.flush()
        tracker.step(feats=feats, labels=labels)
        if os.fork() == 0:
            tracker.step(feats=feats, labels=labels)
            tracker.flush()
            sys.exit()
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        """,
        path,
    )
    assert done.returncode == 0, done.stderr
    assert steps(path) == [1, 2]


class Raises:
    def write(self, record):
        raise OSError("the quota is used up")

    def close(self):
        raise OSError("and again")


class Hangs:
    def write(self, record):
        time.sleep(60)

    close = write


@pytest.mark.parametrize(
    ("sink", "message"), [(Raises, "quota is used up"), (Hangs, "not returned")]
)
def test_a_bad_sink_is_named_once_and_the_others_go_on(sink, message, tmp_path):
    feats, labels = classes()
    path = tmp_path / "log.jsonl"
    start = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Tracker(num_classes=5, sinks=[sink(), path], sink_timeout=0.2) as tracker:
            for _ in range(3):
                tracker.step(feats=feats, labels=labels)
                tracker.flush()
    assert steps(path) == [1, 2, 3]
    assert time.monotonic() - start < 10
    (warning,) = [str(w.message) for w in caught]
    assert f"The sink {sink.__name__} gets no more records" in warning
    assert message in warning


def test_a_sink_that_does_not_keep_up_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("ncfast.tracking.writer._BACKLOG", 2)
    feats, labels = classes()
    slow = [lambda record: time.sleep(0.2)]
    tracker = Tracker(num_classes=5, sinks=slow, flush_seconds=0, log_cost=False)
    with pytest.warns(RuntimeWarning, match="did not keep up: 2 blocks"):  # noqa: PT031
        for _ in range(8):
            tracker.step(feats=feats, labels=labels)
    tracker.close()


def test_a_failed_sink_can_stop_the_run():
    feats, labels = classes()
    tracker = Tracker(num_classes=5, sinks=[Raises()], on_sink_error="raise")
    tracker.step(feats=feats, labels=labels)
    with pytest.raises(OSError, match="quota"):
        tracker.flush()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(tmp_path):
    feats, labels = classes()
    tracker = Tracker(num_classes=5, sinks=["/dev/full"])
    for _ in range(2):
        tracker.step(feats=feats, labels=labels)
    with pytest.warns(RuntimeWarning, match="JsonlSink.*training goes on.*record of step 1"):
        tracker.flush()
    tracker.close()
    assert tracker.current_step == 2


def test_a_directory_that_cannot_be_written(tmp_path):
    """Said before training begins, not after hours of it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Tracker(num_classes=5, sinks=[tmp_path / "file" / "log.jsonl"])


def test_an_unexpected_shape_and_missing_labels():
    model, records = nn.Sequential(nn.Linear(10, 6), nn.Linear(6, 5)), []
    x, y = classes(dim=10, dtype=torch.float32)
    with Tracker(model, num_classes=5, sinks=[records.append], log_cost=False) as tracker:
        model(x)
        with pytest.warns(RuntimeWarning, match=r"Step 1: Layer '1:input' .*200 rows and 100"):
            tracker.step(labels=y[:100])
        model(x)
        with pytest.warns(RuntimeWarning, match="Step 2: A batch without labels"):
            tracker.step(labels=None)
        model(x.unsqueeze(1))
        tracker.step(labels=y)  # the layer has been named before
        model(x)
        tracker.step(labels=y)
        with pytest.warns(RuntimeWarning, match="without labels"):
            tracker.snapshot([(x, None), (x, y)])
    assert "train/rnc1.max" not in records[0]
    assert [record["step"] for record in records if "train/rnc1.max" in record] == [4]
    assert "test/rnc1.max" in records[-1]


@pytest.mark.parametrize("stream", ["batch", "ema:0.5", "window:2"])
def test_nan_features_are_recorded_with_their_step(stream):
    feats, labels = classes()
    bad = feats.clone()
    bad[3, 1] = math.nan
    records = []
    with Tracker(num_classes=5, stream=stream, metrics="rnc1", sinks=[records.append]) as tracker:
        for batch in (feats, bad, feats):
            tracker.step(feats=batch, labels=labels)
    prefix = "" if stream == "batch" else stream.split(":")[0] + "/"
    values = [record[f"{prefix}train/rnc1.max"] for record in records]
    assert [math.isnan(value) for value in values] == [False, True, False]
    assert values[2] == pytest.approx(values[0])


def test_labels_out_of_range_are_named():
    feats, labels = classes()
    tracker = Tracker(num_classes=5)
    with pytest.raises(ValueError, match="row 7 holds 5"):
        tracker.step(feats=feats, labels=labels.clone().index_fill_(0, torch.tensor([7]), 5))
