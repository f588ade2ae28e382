"""Local runs of the real library; a user rightly expects all rows of both runs."""

import pytest
import torch
import trackio

import ncfast
from ncfast.tracking.sinks import TrackioSink, as_sink


@pytest.fixture(autouse=True)
def _local(tmp_path, monkeypatch):
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path)
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path)


def mine():
    return trackio.init("mine", embed=False, auto_log_gpu=False, auto_log_cpu=False)


def track(sink, steps=300, log=None):
    with ncfast.Tracker(num_classes=2, metrics="rnc1", sinks=[sink]) as tracker:
        for step in range(steps):
            if log is not None:
                log({"loss": 1.0}, step=step)
            tracker.step(feats=torch.randn(8, 4), labels=torch.arange(8) % 2)


def rows(project):
    storage = trackio.sqlite_storage.SQLiteStorage
    (run,) = storage.get_runs(project)
    return storage.get_logs(project, run), storage.get_run_config(project, run)


def test_a_run_of_its_own_beside_the_current_one():
    run = mine()
    track("trackio:collapse", log=trackio.log)
    assert trackio.context_vars.current_run.get() is run
    assert trackio.config is run.config
    trackio.log({"loss": 0.5}, step=300)
    trackio.finish()
    own, _ = rows("mine")
    assert [row["step"] for row in own] == list(range(301))
    assert all("loss" in row for row in own)
    found, config = rows("collapse")
    assert [row["step"] for row in found] == list(range(1, 301))
    assert all("train/rnc1.max" in row for row in found)
    assert "rnc1.max" in config["ncfast"]["metrics"]


@pytest.mark.parametrize(
    "choose",
    [
        lambda run: trackio.log,
        lambda run: (
            lambda record: trackio.log(
                {k: v for k, v in record.items() if k != "step"}, step=record["step"]
            )
        ),
        lambda run: run.log,
        TrackioSink,
    ],
    ids=["trackio.log", "lambda", "run.log", "sink"],
)
def test_functions_log_to_the_users_run(choose):
    run = mine()
    track(choose(run), steps=20)
    trackio.log({"loss": 0.5}, step=20)
    trackio.finish()
    found, _ = rows("mine")
    assert [row["step"] for row in found if "train/rnc1.max" in row] == list(range(1, 21))
    assert [row["step"] for row in found if "loss" in row] == [20]


def test_arguments_that_contradict():
    with pytest.raises(ValueError, match=r"got both \(project\).*trackio\.init"):
        TrackioSink(object(), project="x")
    with pytest.raises(ValueError, match="'trackio:PROJECT'"):
        as_sink("trackio:")
