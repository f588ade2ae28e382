"""Every line of a log is JSON that any reader takes, and nothing of a number is lost on the way."""

import json
import math
import shutil
import subprocess

import pytest
import torch

from ncfast._strict_json import json_line, restored
from ncfast.ops import _raw
from ncfast.tracking import JsonlSink, Tracker, read_records


def strictly(line):
    """As jq, JavaScript, pandas and DuckDB read it: NaN and Infinity are no JSON."""

    def refuse(token):
        raise AssertionError(f"{token} is no JSON")

    return json.loads(line, parse_constant=refuse)


def track(path):
    feats, labels = torch.randn(12, 3), torch.arange(12) % 3
    broken = feats.clone()
    broken[0] = math.nan
    with Tracker(num_classes=3, metrics="rnc1", sinks=[path], log_cost=False) as tracker:
        for x in (feats, broken, feats):
            tracker.step(feats=x, labels=labels)
        tracker.log({"up": math.inf, "my loss": torch.tensor(-math.inf), "fine": 1.0})


@pytest.mark.parametrize("fast", [True, False])
def test_values_that_are_not_finite_are_null_and_listed(tmp_path, fast, monkeypatch):
    if not fast:
        monkeypatch.delattr(_raw.extension, "json_lines", raising=False)
    track(tmp_path / "log.jsonl")
    lines = [strictly(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[1] == {
        "step": 2,
        "train/rnc1.max": None,
        "train/rnc1.mean": None,
        "nonfinite": "train/rnc1.max=nan train/rnc1.mean=nan",
        "tracker/run": 1,
    }
    assert lines[2]["nonfinite"] == "up=inf my loss=-inf"
    assert "nonfinite" not in lines[0]
    # each key has one type of value in every line: a number, or null
    own = ("step", "nonfinite", "tracker/run")
    kinds = {type(v) for line in lines for k, v in line.items() if k not in own}
    assert kinds == {float, type(None)}
    records = list(read_records(tmp_path / "log.jsonl"))
    assert math.isnan(records[1]["train/rnc1.mean"])
    assert (records[2]["up"], records[2]["my loss"], records[2]["fine"]) == (math.inf, -math.inf, 1)
    assert all("nonfinite" not in record for record in records)


def test_a_log_of_version_0_1_is_still_read(tmp_path):
    path = tmp_path / "old.jsonl"
    path.write_text('{"step": 1, "a": NaN, "b": Infinity}\n{"step": 2, "a": 1.0, "b": -Infinity}\n')
    first, second = read_records(path)
    assert math.isnan(first["a"])
    assert (first["b"], second["b"]) == (math.inf, -math.inf)


def test_a_null_that_no_list_explains_stays_what_it_is():
    assert restored({"step": 1, "a": None}) == {"step": 1, "a": None}


def test_keys_with_spaces_and_equal_signs_come_back():
    record = {"step": 1, "x a": math.nan, "a": math.inf, "b=nan c": -math.inf, "é": math.nan}
    found = restored(json.loads(json_line(record)))
    assert repr(found) == repr(record)


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")
def test_jq_reads_every_line(tmp_path):
    track(tmp_path / "log.jsonl")
    done = subprocess.run(
        ["jq", "-c", '[.step, ."train/rnc1.max" == null, .nonfinite]', tmp_path / "log.jsonl"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows == [
        [1, False, None],
        [2, True, "train/rnc1.max=nan train/rnc1.mean=nan"],
        [3, False, "up=inf my loss=-inf"],
    ]


def test_a_log_that_is_continued_keeps_both_kinds(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "a": NaN}\n')
    sink = JsonlSink(path)
    sink.write({"step": 2, "a": math.nan})
    sink.close()
    assert [math.isnan(record["a"]) for record in read_records(path)] == [True, True]


@pytest.mark.parametrize("line", ["[1]", "3", "null", '"text"'])
def test_a_line_that_is_json_but_no_object_is_named(tmp_path, line):
    """A damaged log says where, not what Python tripped over."""
    path = tmp_path / "m.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(ValueError, match="line 2 is no JSON object"):
        list(read_records(path))
