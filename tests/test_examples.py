"""Every script in examples/ runs with the real libraries and does what it says."""

import math
import runpy
import warnings
from pathlib import Path

from ncfast.tracking import read_records

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # what other libraries warn of is not our business
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def log(name):
    return list(read_records(f"runs/{name}/metrics.jsonl"))


def values(records, key):
    return [record[key] for record in records if key in record]


def test_plain_loop(tmp_path, monkeypatch, capsys):
    run("plain_loop", tmp_path, monkeypatch)
    records = log("plain_loop")
    assert [record["step"] for record in records] == list(range(1, 121))
    assert [r["step"] for r in records if "test/accuracy" in r] == [20, 40, 60, 80, 100, 120]
    assert records[-1]["test/accuracy"] > 0.85
    assert records[-1]["train/rnc1.max"] < records[0]["train/rnc1.max"]
    assert list(read_records("runs/plain_loop/metrics.csv")) == records
    assert "step 120: test accuracy 0.9" in capsys.readouterr().out


def test_torchmetrics_eval(tmp_path, monkeypatch, capsys):
    run("torchmetrics_eval", tmp_path, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all("'val/rnc1'" in line and "'val/nc1.cdnv'" in line for line in lines)


def test_lightning_digits(tmp_path, monkeypatch, capsys):
    run("lightning_digits", tmp_path, monkeypatch)
    records = log("lightning_digits")
    assert [record["step"] for record in records] == list(range(1, 51))
    assert [r["step"] for r in records if "val/rnc1.max" in r] == [10, 20, 30, 40, 50]
    losses = values(records, "train/loss")
    assert len(losses) == 50
    assert losses[-1] < losses[0] / 2
    assert "step 50: validation accuracy" in capsys.readouterr().out


def test_huggingface_text(tmp_path, monkeypatch, capsys):
    run("huggingface_text", tmp_path, monkeypatch)
    records = log("huggingface_text")
    assert [record["step"] for record in records] == list(range(1, 97))
    assert [r["step"] for r in records if "eval/rnc1.max" in r] == [16, 32, 48, 64, 80, 96]
    assert records[-1]["eval/accuracy"] > 0.9, "the task is easy"
    assert records[-1]["eval/rnc1.max"] < 0.5 * records[15]["eval/rnc1.max"]
    assert all(math.isfinite(value) for value in values(records, "eval/loss"))
