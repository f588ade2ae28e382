"""Tests logs that several trackers continue, one after the other."""

import importlib.util
import json
import shutil

import pytest
import torch

from ncfast import Tracker
from ncfast.tracking import read_records
from ncfast.tracking.sinks import CsvSink, JsonlSink
from ncfast.tracking.sinks.files import differences, last_line

FEATS, LABELS = torch.randn(12, 4), torch.arange(12) % 3
NO_PARQUET = importlib.util.find_spec("pyarrow") is None
LOGS = [
    "log.jsonl",
    "log.csv",
    pytest.param("log.parquet", marks=pytest.mark.skipif(NO_PARQUET, reason="needs pyarrow")),
]


def track(path, first, last, **changes):
    settings = {"num_classes": 3, "metrics": "rnc1", "log_cost": False, **changes}
    with Tracker(sinks=[path], start_step=first - 1, **settings) as tracker:
        for step in range(first, last + 1):
            tracker.step(feats=FEATS, labels=LABELS)
            tracker.log({"written": 10.0 * step + first})


@pytest.mark.parametrize("name", LOGS)
def test_a_resumed_log_has_the_last_record_of_each_step_and_all_on_demand(tmp_path, name):
    path = tmp_path / name
    track(path, 1, 15)
    track(path, 11, 20)
    records = list(read_records(path))
    assert [record["step"] for record in records] == list(range(1, 21))
    assert [record["tracker/run"] for record in records] == [1] * 10 + [2] * 10
    assert [record["written"] % 10 for record in records] == [1] * 20
    assert records[10]["written"] == 121  # of run 2, which began at step 11
    every = list(read_records(path, all=True))
    assert [(r["tracker/run"], r["step"]) for r in every] == [
        *((1, step) for step in range(1, 16)),
        *((2, step) for step in range(11, 21)),
    ]


@pytest.mark.parametrize("name", LOGS)
def test_a_run_that_was_killed_early_leaves_the_later_steps_of_the_run_before(tmp_path, name):
    path = tmp_path / name
    track(path, 1, 15)
    track(path, 11, 12)
    track(path, 11, 11)
    runs = [record["tracker/run"] for record in read_records(path)]
    assert runs == [1] * 10 + [3, 2] + [1] * 3


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 4}, "num_classes was 3 and is 4"),
        ({"stream": "window:5"}, r"measured\['step'\] was .* and is .*window/SPLIT/ID"),
        ({"metrics": ["rnc1", "nc1.cdnv"]}, r"metrics\['nc1.cdnv'\] is new"),
        ({"metrics": ["rnc1.max"]}, r"metrics\['rnc1.mean'\] is gone\. "),
    ],
)
def test_another_header_is_an_error_that_says_what_differs(tmp_path, name, changes, message):
    path = tmp_path / name
    track(path, 1, 3)
    with pytest.raises(ValueError, match=message) as refused:
        track(path, 4, 5, **changes)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    track(path, 4, 5)  # the log is as it was
    assert [record["step"] for record in read_records(path, all=True)] == [1, 2, 3, 4, 5]


def test_versions_may_differ_and_so_may_conventions_that_one_of_them_lacks():
    before = {"versions": {"torch": "2.6"}, "conventions": {"step": "a"}, "layers": ["fc"]}
    now = {"versions": {"torch": "2.9"}, "conventions": {"step": "a", "new": "b"}}
    assert list(differences(before, {**now, "layers": ["fc"]})) == []
    assert list(differences(before, {**now, "layers": []})) == ['layers was ["fc"] and is []']
    now["conventions"]["step"] = "c"
    assert list(differences(before, {**now, "layers": ["fc"]})) == [
        'conventions[\'step\'] was "a" and is "c"'
    ]


def test_an_empty_log_takes_any_header(tmp_path):
    track(tmp_path / "log.jsonl", 1, 0)
    track(tmp_path / "log.jsonl", 1, 2, num_classes=4)
    assert len(list(read_records(tmp_path / "log.jsonl"))) == 2


def test_a_log_of_version_0_1_is_read_and_continued(tmp_path):
    """It has no numbers of runs, NaN where JSON has none, and fewer conventions."""
    path = tmp_path / "log.jsonl"
    track(path, 1, 2)
    header = json.loads((tmp_path / "log.header.json").read_text())
    del header["conventions"]["tracker/run"]
    (tmp_path / "log.header.json").write_text(json.dumps(header))
    path.write_text('{"step": 1, "train/rnc1.max": NaN}\n{"step": 2, "train/rnc1.max": 0.5}\n')
    assert [record["step"] for record in read_records(path)] == [1, 2]
    track(path, 2, 3)
    runs = [(record["step"], record.get("tracker/run")) for record in read_records(path)]
    assert runs == [(1, None), (2, 2), (3, 2)]


def test_a_sink_without_a_tracker_writes_no_number(tmp_path):
    for kind, name in ((JsonlSink, "a.jsonl"), (CsvSink, "a.csv")):
        sink = kind(tmp_path / name)
        sink.start({})
        sink.write({"step": 1, "a": 2.0})
        sink.close()
        assert list(read_records(tmp_path / name)) == [{"step": 1, "a": 2.0}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": 1}', "line 2: expected 'step' to be an integer but got none"),
        ('{"step": 1.5}', "line 2: expected 'step' to be an integer but got '1.5'"),
        ('{"step": true}', "expected 'step' to be an integer but got 'True'"),
        ('{"step": 1' + "0" * 30 + "}", "expected 'step' to be an integer but got"),
        ('{"step": 2, "a": 1, "a": 2}', "line 2 is no JSON object: the key 'a' is there twice"),
        ("[" * 100_000, "line 2 is no JSON object: maximum recursion depth"),
        ("[2]", "line 2 is no JSON object"),
        ('{"step": "\xff"}', "line 2 is no JSON object: 'utf-8' codec can't decode"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path, line, message):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line.encode("latin-1") + b'\n{"step": 3}\n')
    for every in (False, True):
        with pytest.raises(ValueError, match=message) as refused:
            list(read_records(path, all=every))
        assert str(path) in str(refused.value)
        assert "Correct or delete that line" in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_damaged_last_line_is_not_continued(tmp_path):
    path = tmp_path / "log.jsonl"
    track(path, 1, 2)
    path.write_text(path.read_text() + "garbage\n")
    with pytest.raises(ValueError, match=r"log\.jsonl: the last line is no JSON object"):
        track(path, 3, 4)
    with pytest.raises(ValueError, match=r"log\.header\.json: expected the header of a log"):
        path.write_text('{"step": 1}\n')
        (tmp_path / "log.header.json").write_text("[]")
        track(path, 3, 4)


def test_a_log_that_is_a_directory_is_named(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(OSError, match=r"Expected a log of records but got: Is a directory"):
        list(read_records(tmp_path / "log.jsonl"))


@pytest.mark.parametrize("long", [10, 65_530, 65_536, 200_000])
@pytest.mark.parametrize("tail", ["", "unfinished"])
def test_the_last_line_of_a_file(tmp_path, long, tail):
    path = tmp_path / "file"
    path.write_text(tail)
    assert last_line(path) == b""
    path.write_text("x" * long + "\n" + tail)
    assert last_line(path) == b"x" * long + b"\n"
    path.write_text("first\n" + "y" * long + "\n" + tail)
    assert last_line(path) == b"y" * long + b"\n"


def test_a_missing_header_is_no_hindrance(tmp_path):
    track(tmp_path / "log.jsonl", 1, 2)
    (tmp_path / "log.header.json").unlink()
    track(tmp_path / "log.jsonl", 3, 4, num_classes=4)
    assert [r["tracker/run"] for r in read_records(tmp_path / "log.jsonl")] == [1, 1, 2, 2]
    shutil.rmtree(tmp_path)
