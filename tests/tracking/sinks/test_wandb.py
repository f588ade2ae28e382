"""Offline runs of the real library, read back from the file that would be uploaded."""

import json
import math
import struct

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from ncfast.tracking.sinks import WandbSink, as_sink


@pytest.fixture(autouse=True)
def _offline(tmp_path, monkeypatch):
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def stored(tmp_path):
    """History rows and config of the only run below ``tmp_path``."""
    wandb.teardown()  # its process writes on after a run is finished
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    rows, config = [], {}
    for data in log_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.history.item:
            items = record.history.item
            rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
        for update in (*record.config.update, *record.run.config.update):
            config["/".join(update.nested_key) or update.key] = json.loads(update.value_json)
    return rows, config


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
    assert wandb.run is not None
    assert wandb.run.project == "collapse"
    sink.close()
    assert wandb.run is None
    rows, config = stored(tmp_path)
    assert [row["step"] for row in rows] == [10, 20]
    assert rows[0]["train/rnc1.max"] == 0.5
    assert rows[1]["test/accuracy"] == 1.0
    assert config["ncfast"] == {"conventions": {"loss": "mean"}}


def test_a_run_of_the_user_stays_open_and_keeps_its_own_counter(tmp_path):
    run = wandb.init(project="mine")
    for _ in range(30):
        run.log({"loss": 1.0})
    sink = WandbSink(run)
    sink.write({"step": 2, "train/rnc1.max": 0.5})  # behind the run's own counter
    sink.close()
    run.log({"loss": 0.5})
    run.finish()
    rows, _ = stored(tmp_path)
    assert next(row for row in rows if "step" in row)["train/rnc1.max"] == 0.5
    assert len(rows) == 32


def test_a_run_and_settings_contradict():
    with pytest.raises(ValueError, match=r"got both \(project\)"):
        WandbSink(object(), project="x")
