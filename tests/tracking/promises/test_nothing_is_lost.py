"""What was measured is written, and nothing waits for ever."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref

import pytest
import torch
from samples import classes
from torch import nn

import ncfast
from ncfast.ops import _raw
from ncfast.tracking import Tracker, read_records
from ncfast.tracking import recorder as recorder_module
from ncfast.tracking.averaging import TorchAverage
from ncfast.tracking.shutdown import defer_signals
from ncfast.tracking.writer import SinkWriter

FEATS, LABELS = classes()


def steps_of(records):
    return [record["step"] for record in records]


# Python swallows what a handler raises inside the callback of a weak reference
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="POSIX")
@pytest.mark.parametrize("stream", ["batch", "ema:0.9", "window:4"])
@pytest.mark.parametrize("signal_number", ["SIGINT", "SIGALRM"])
def test_a_keyboard_interrupt_anywhere_in_a_step_loses_at_most_that_step(stream, signal_number):
    """A user stops a cell and goes on: no block is lost, no record is there twice or wrong."""
    records, number = [], getattr(signal, signal_number)
    armed, done, interrupts = [False], threading.Event(), 0

    def interrupt(*_):
        if armed[0]:
            armed[0] = False
            raise KeyboardInterrupt

    def shoot():
        while not done.wait(0.001):
            os.kill(os.getpid(), number)

    options = {"stream": stream, "metrics": "rnc1", "flush_seconds": 0.0005, "log_cost": False}
    tracker = Tracker(num_classes=5, sinks=[records.append], **options)
    batches = [(FEATS[i : i + 60], LABELS[i : i + 60]) for i in range(0, 140, 7)]
    before, shooter = signal.signal(number, interrupt), threading.Thread(target=shoot)
    shooter.start()
    while interrupts < 100:
        feats, labels = batches[tracker.current_step % len(batches)]
        try:
            armed[0] = True
            tracker.step(feats=feats, labels=labels)
            tracker.log({"batch": tracker.current_step})
            armed[0] = False
        except KeyboardInterrupt:
            interrupts += 1
    done.set()
    shooter.join()
    signal.signal(number, before)
    tracker.close()
    seen = steps_of(records)
    assert seen == sorted(set(seen)), "no step twice, and in order"
    assert tracker.current_step - len(seen) <= interrupts
    assert all(r["batch"] == r["step"] for r in records if "batch" in r)
    if stream == "batch":
        for record in records[::50]:
            if "train/rnc1.max" in record:
                feats, labels = batches[(record["step"] - 1) % len(batches)]
                expected = ncfast.rnc1(feats, labels, num_classes=5).item()
                assert record["train/rnc1.max"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("place", ["evaluation", "writer", "average"])
def test_an_exception_while_a_block_is_made_leaves_it_for_the_next_call(error, place, monkeypatch):
    """Nothing is forgotten before the writers have it, and nobody gets it twice."""
    reference, records, others = [], [], []
    options = {"stream": "ema:0.5", "metrics": "rnc1", "flush_seconds": 1e9, "log_cost": False}

    def track(sinks, fail):
        with Tracker(num_classes=5, sinks=sinks, **options) as tracker:
            for step in range(1, 9):
                tracker.step(feats=FEATS[10 * step :], labels=LABELS[10 * step :])
                tracker.log({"mine": step})
                if step == 5 and fail:
                    with monkeypatch.context() as patch:
                        spoil(patch, error, place)
                        with pytest.raises(error):
                            tracker.flush()
                if step == 6:
                    tracker.flush()

    monkeypatch.setattr(_raw, "extension", None)  # an average that can be cut in two
    track([reference.append], False)
    track([records.append, others.append], True)
    assert steps_of(records) == list(range(1, 9))
    assert records == others == reference


def spoil(patch, error, place):
    """Make the next call at a place raise, after its work where there is any."""
    owner, name = {
        "evaluation": (recorder_module, "tables_of"),
        "writer": (SinkWriter, "submit"),
        "average": (TorchAverage, "update"),
    }[place]
    calls, original = [], getattr(owner, name)

    def fails(*arguments):
        calls.append(arguments)
        if place == "writer" and len(calls) == 1:
            return original(*arguments)  # the first of two writers has it
        raise error

    patch.setattr(owner, name, fails)


def test_an_exception_in_the_loop_writes_the_open_record(tmp_path):
    path = tmp_path / "log.jsonl"
    with pytest.raises(KeyboardInterrupt), Tracker(num_classes=5, sinks=[path]) as tracker:
        tracker.step(feats=FEATS, labels=LABELS)
        tracker.log({"mine": 1.0})
        raise KeyboardInterrupt
    assert [record["mine"] for record in read_records(path)] == [1.0]


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="needs raise_signal")
def test_handlers_wait_and_then_run_and_are_all_back():
    seen = []
    before = {n: signal.signal(n, lambda *a: seen.append(a[0])) for n in (signal.SIGINT,)}
    try:
        handler = signal.getsignal(signal.SIGINT)
        with defer_signals():
            signal.raise_signal(signal.SIGINT)
            assert seen == []
        assert seen == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_steps_after_close_are_said_once_and_flush_returns(tmp_path):
    model, path = nn.Sequential(nn.Linear(12, 5)), tmp_path / "log.jsonl"
    x = FEATS.float()
    tracker = Tracker(model, num_classes=5, sinks=[path])
    model(x)
    tracker.step(labels=LABELS)
    tracker.close()
    with pytest.warns(RuntimeWarning, match="Step 2: The Tracker is closed: .*nothing is recorded"):
        tracker.step(labels=LABELS)
    tracker.step(feats=x, labels=LABELS)
    tracker.advance()
    tracker.log({"mine": 1.0})
    tracker.snapshot([(x, LABELS)])
    tracker.replayed()
    tracker.flush()
    tracker.close()
    assert tracker.current_step == 5
    assert steps_of(read_records(path)) == [1]


class Ends:
    """A sink that raises what no ``except Exception`` catches."""

    def __init__(self, error, method):
        setattr(self, method, self.fail)
        self.error = error

    def fail(self, *_):
        raise self.error

    def write(self, record):
        pass

    def close(self):
        pass


@pytest.mark.parametrize("method", ["start", "write", "flush", "write_block", "close"])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_a_sink_that_ends_its_thread_is_named_and_nobody_waits(error, method):
    records = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Tracker(num_classes=5, sinks=[Ends(error, method), records.append]) as tracker:
            for _ in range(3):
                tracker.step(feats=FEATS, labels=LABELS)
                tracker.flush()
    assert steps_of(records) == [1, 2, 3]
    (warning,) = [str(w.message) for w in caught]
    assert (
        f"The sink Ends gets no more records, training goes on: {type(error).__name__}" in warning
    )


def test_a_sink_that_ends_its_thread_can_stop_the_run_as_an_error():
    tracker = Tracker(num_classes=5, sinks=[Ends(SystemExit(3), "write")], on_sink_error="raise")
    tracker.step(feats=FEATS, labels=LABELS)
    with pytest.raises(RuntimeError, match="The sink Ends failed: SystemExit"):
        tracker.flush()
    tracker.close()


def test_no_thread_to_be_had_is_said(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        tracker = Tracker(num_classes=5, sinks=[lambda record: None])
        tracker.step(feats=FEATS, labels=LABELS)
        with pytest.warns(RuntimeWarning, match="can't start new thread"):
            tracker.flush()
        tracker.close()


@pytest.mark.parametrize("rows", [100, 70_000])
def test_another_thread_may_flush_at_any_time(rows):
    """Of 70,000 rows a step releases the interpreter while it measures."""
    generator = torch.Generator().manual_seed(0)
    feats = torch.randn(rows, 4, generator=generator)
    labels = torch.arange(rows) % 3
    records, count = [], 40 if rows > 1000 else 400
    expected = ncfast.rnc1(feats, labels, num_classes=3).item()
    done = threading.Event()
    with Tracker(num_classes=3, metrics="rnc1", sinks=[records.append]) as tracker:

        def flush():
            while not done.is_set():
                tracker.flush()
                time.sleep(0.0003)

        thread = threading.Thread(target=flush)
        thread.start()
        try:
            for step in range(count):
                # every batch has a value of its own: its scale does not change, its spread does
                tracker.step(feats=feats if step % 2 else feats + 3, labels=labels)
                tracker.log({"odd": step % 2})
        finally:
            done.set()
            thread.join()
    shifted = ncfast.rnc1(feats + 3, labels, num_classes=3).item()
    merged = {}
    for record in records:  # a record that was flushed and then logged to has two lines
        merged.setdefault(record["step"], {}).update(record)
    assert sorted(merged) == list(range(1, count + 1))
    for step, record in merged.items():
        assert record["train/rnc1.max"] == pytest.approx(shifted if step % 2 else expected, 1e-6)
        assert record["odd"] == (step - 1) % 2


def test_ctrl_c_in_close_leaves_the_rest_to_the_end_of_the_process(tmp_path):
    code = """
        import os, signal, sys, threading, time
        import torch, ncfast
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
        lines = open(sys.argv[1], "w")
        def slow(record):
            print(record["step"], file=lines, flush=True)
            time.sleep(0.02)
            if record["step"] == 5:  # `close` has sent the block, and waits for the rest of it
                os.kill(os.getpid(), signal.SIGINT)
        tracker = ncfast.Tracker(num_classes=4, sinks=[slow], flush_seconds=3600.0)
        for _ in range(50):
            tracker.step(feats=torch.randn(40, 6), labels=torch.arange(40) % 4)
        tracker.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), tmp_path / "steps"],
        capture_output=True,
        text=True,
    )
    assert "KeyboardInterrupt" in done.stderr
    assert (tmp_path / "steps").read_text().split() == [str(step) for step in range(1, 51)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_does_not_wait_for_a_lock_that_nobody_will_release():
    tracker = Tracker(num_classes=5)
    held, release = threading.Event(), threading.Event()

    def hold():
        with tracker._recorder.lock:
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        tracker.step(feats=FEATS, labels=LABELS)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    release.set()
    thread.join()
    tracker.close()
    assert os.waitstatus_to_exitcode(status) == 0


def test_features_that_require_gradients_keep_nothing_alive():
    """Neither the graph nor the features outlive the step that measured them."""
    model, records = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 5)), []
    with Tracker(model, num_classes=5, sinks=[records.append], flush_seconds=1e9) as tracker:
        x = FEATS.float().requires_grad_()
        hidden = model[0](x)
        loss = model[1](hidden).sum()
        tracker.step(feats=hidden, labels=LABELS)
        tracker.log({"loss": loss})
        model(x)
        tracker.step(labels=LABELS)
        graph = [weakref.ref(tensor) for tensor in (loss, hidden, x)]
        del loss, hidden, x
        tracker._capture.clear()
        gc.collect()
        assert [tensor() for tensor in graph] == [None] * 3
        assert tracker._capture._hooks["1:input"].value is None


def test_a_tracker_shows_what_it_is(tmp_path):
    """In a notebook a cell may end with it."""
    model = nn.Sequential(nn.Linear(12, 5))
    tracker = Tracker(model, num_classes=5, sinks=[tmp_path / "log.jsonl", print])
    assert repr(tracker) == (
        f"<Tracker at step 0, layers=['0:input'], sinks=[JsonlSink({tmp_path / 'log.jsonl'}), "
        "CallableSink]>"
    )
    tracker.close()
    assert repr(tracker).endswith("closed>")


def test_a_cell_that_is_run_again_finds_the_records_of_the_first_time(tmp_path):
    """A notebook keeps what a cell ends with: the tracker of the first run is still there."""
    model, path, out = nn.Sequential(nn.Linear(12, 5)), tmp_path / "log.jsonl", []
    for run in range(3):
        tracker = Tracker(model, num_classes=5, sinks=[path], flush_seconds=1e9)
        if run:
            assert steps_of(read_records(path, all=True)) == [1] * run
        model(FEATS.float())
        tracker.step(labels=LABELS)
        out.append(tracker)
    for tracker in out:
        tracker.close()
    assert [record["tracker/run"] for record in read_records(path, all=True)] == [1, 2, 3]
