"""Offline runs of the real library, read back from the file that would be uploaded."""

import json
import math
import struct

import pytest
import torch
import wandb
from wandb.proto import wandb_internal_pb2

import ncfast
from ncfast.tracking.sinks import WandbSink, as_sink


@pytest.fixture(autouse=True)
def _offline(tmp_path, monkeypatch):
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def stored(tmp_path):
    """History rows and config of every run below ``tmp_path``, in order of their project."""
    wandb.teardown()  # its process writes on after a run is finished
    runs = [stored_run(file) for file in tmp_path.glob("wandb/offline-run-*/run-*.wandb")]
    return [run[1:] for run in sorted(runs, key=lambda run: run[0])]


def stored_run(file):
    rows, config, name = [], {}, ""
    for data in log_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.run.project:
            name = f"{record.run.project}/{record.run.display_name}"
        if record.history.item:
            items = record.history.item
            rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
        for update in (*record.config.update, *record.run.config.update):
            config["/".join(update.nested_key) or update.key] = json.loads(update.value_json)
    return name, rows, config


def log_records(data):
    """The payloads of a log in LevelDB's format: chunks in blocks of 32 KiB, after 7 bytes."""
    position, whole = 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:  # too little room for another chunk
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last chunk of one
            yield whole
            whole = b""


def test_a_run_of_its_own(tmp_path):
    sink = as_sink("wandb:collapse")
    sink.start({"conventions": {"loss": "mean"}})
    sink.write({"step": 10, "train/rnc1.max": 0.5})
    sink.write({"step": 20, "train/rnc1.max": math.inf, "test/accuracy": 1.0})
    assert wandb.run is None, "a later wandb.init() of the user's must not get this run"
    sink.close()
    ((rows, config),) = stored(tmp_path)
    assert [row["step"] for row in rows] == [10, 20]
    assert rows[0]["train/rnc1.max"] == 0.5
    assert rows[1]["test/accuracy"] == 1.0
    assert config["ncfast"] == {"conventions": {"loss": "mean"}}


def track(sink, log, steps=300):
    feats, labels = torch.randn(8, 4), torch.arange(8) % 2
    with ncfast.Tracker(num_classes=2, metrics="rnc1", sinks=[sink]) as tracker:
        for step in range(steps):
            log(step)
            tracker.step(feats=feats, labels=labels)


@pytest.mark.parametrize(
    "choose", [lambda run: "wandb:other", WandbSink, lambda run: run, lambda run: run.log]
)
def test_no_row_of_the_users_is_lost_or_of_ours(tmp_path, choose):
    """A user rightly expects all rows of both, and an own run that is neither taken nor closed."""
    run = wandb.init(project="mine")
    track(choose(run), lambda step: run.log({"loss": 1.0}, step=step))
    assert wandb.run is run
    run.log({"loss": 0.5}, step=300)  # raises if the run was closed
    run.finish()
    (mine, _), (ours, config) = stored(tmp_path)
    assert [row["_step"] for row in mine if "loss" in row] == list(range(301))
    assert [row["step"] for row in ours if "train/rnc1.max" in row] == list(range(1, 301))
    assert "metrics" in config["ncfast"]


def test_rows_in_a_shared_run(tmp_path):
    run = wandb.init(project="mine")
    track(WandbSink(run, share=True), lambda step: run.log({"loss": 1.0}), steps=40)
    run.log({"loss": 0.5})
    run.finish()
    ((rows, _),) = stored(tmp_path)
    assert sum("loss" in row for row in rows) == 41
    assert [row["step"] for row in rows if "train/rnc1.max" in row] == list(range(1, 41))


def test_arguments_that_contradict():
    with pytest.raises(ValueError, match=r"got both \(project\)"):
        WandbSink(object(), project="x")
    with pytest.raises(ValueError, match=r"`run` where share=True"):
        WandbSink(share=True)
