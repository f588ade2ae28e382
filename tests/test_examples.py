"""Tests that every script in examples/ runs with the real libraries and does what it states."""

import json
import math
import os
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from ranks import free_port

from ncfast.tracking import read_records

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # warnings of other libraries are ignored
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


def test_collapse_loss(tmp_path, monkeypatch, capsys):
    run("collapse_loss", tmp_path, monkeypatch)
    without, with_loss = capsys.readouterr().out.splitlines()
    cdnv = [float(line.split("CDNV ")[1].split(",")[0]) for line in (without, with_loss)]
    assert cdnv[1] < 0.85 * cdnv[0]
    assert float(with_loss.split("accuracy ")[1].split(" ")[0]) > 0.88


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


def test_ddp_torchrun(tmp_path, monkeypatch):
    """The same log from one process and from two, apart from the rounding of float32 training."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *command, str(EXAMPLES / "ddp_torchrun.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "step 60 on 2 processes: RNC1" in done.stdout
    two = list(read_records(tmp_path / "runs/ddp_torchrun/metrics.jsonl"))

    (tmp_path / "alone").mkdir()
    alone = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in alone.items():
        monkeypatch.setenv(name, str(value))
    run("ddp_torchrun", tmp_path / "alone", monkeypatch)
    one = log("ddp_torchrun")
    assert [record["step"] for record in one] == list(range(1, 61))
    for record in (*one, *two):
        record.pop("tracker/seconds", None)
    assert two[0] == pytest.approx(one[0], rel=1e-6)
    assert two[-1] == pytest.approx(one[-1], rel=1e-2)
    assert one[-1]["train/rnc1.max"] < 0.8 * one[0]["train/rnc1.max"]


def few_steps(name, tmp_path, monkeypatch, **options):
    """The records of a script that trains longer for its figure."""
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](**options)
    folder = Path("runs") / name
    figures = list(folder.glob("*.png"))
    assert len(figures) == (name != "imbalance")
    assert all(figure.stat().st_size > 10_000 for figure in figures)
    return json.loads((folder / "records.json").read_text())


def test_regression(tmp_path, monkeypatch):
    records = few_steps("regression", tmp_path, monkeypatch, steps=500, points=3)
    assert [record["step"] for record in records] == [1, 22, 500] * 3
    without, *_, most = records[2::3]
    assert (without["weight_decay"], most["weight_decay"]) == (0, 5e-3)
    for id_ in ("nrc1.features", "nrc2.weight"):
        assert most[id_] < 0.7 * without[id_], "weight decay collapses the features"
        assert most[id_] < 0.5 * records[0][id_]
    assert all(record["test/r2"] > 0.2 for record in (without, most))


def test_imbalance(tmp_path, monkeypatch):
    few, _, many = few_steps("imbalance", tmp_path, monkeypatch, steps=100)
    assert (few["ratio"], many["ratio"]) == (2, 100)
    assert all(math.isfinite(value) for value in (*few.values(), *many.values()))
    assert many["accuracy of rare classes"] < 0.2 < few["accuracy of rare classes"]
    assert many["nc1 of rare classes"] == 0, "these classes have one sample each"
    rows = "imbalance.minority_cosine_weight"
    assert many[rows] > few[rows]


def test_tunnel(tmp_path, monkeypatch, capsys):
    epochs = {"CNN": 4, "ResNet18": 1}
    records = few_steps("tunnel", tmp_path, monkeypatch, epochs=epochs, number=100)
    assert "nc4.ncc_accuracy stands still from features." in capsys.readouterr().out
    for splits in records.values():
        for record in splits.values():
            assert sum(key.endswith("nc1.quotient") for key in record) >= 4
            assert all(math.isfinite(value) and value >= 0 for value in record.values())


def test_self_supervised(tmp_path, monkeypatch):
    records = few_steps("self_supervised", tmp_path, monkeypatch, steps=20, points=2)
    healthy, collapsed = (records[name][-1] for name in ("SimCLR", "pull only"))
    assert collapsed["ssl.alignment"] < 0.5 * healthy["ssl.alignment"]
    assert collapsed["ssl.uniformity"] > 0.5 * healthy["ssl.uniformity"]
    assert collapsed["rank.rankme"] < healthy["rank.rankme"]


def test_language_model(tmp_path, monkeypatch):
    """A few steps on a few phrases: the whole run takes ten minutes."""
    data = os.environ.get("NCFAST_DATA")
    if data is None or not (Path(data) / "text" / "sst2").is_dir():
        pytest.skip("needs the SST-2 files under NCFAST_DATA/text/sst2")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "language_model.py"))["main"](epochs=0.4, phrases=2000, points=3)
    records = json.loads(Path("runs/language_model/records.json").read_text())
    assert [record["step"] for record in records] == [1, 3, 12]
    assert records[-1]["validation/loss"] < records[0]["validation/loss"]
    assert all(math.isfinite(value) for record in records for value in record.values())
    assert Path("runs/language_model/collapse.png").stat().st_size > 10_000
