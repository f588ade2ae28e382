import sys
from pathlib import Path

import pytest
import torch

import ncfast
from ncfast.tracking.sinks import (
    CallableSink,
    CsvSink,
    JsonlSink,
    MlflowSink,
    ParquetSink,
    Sink,
    TensorBoardSink,
    TrackioSink,
    WandbSink,
    as_sink,
    read_records,
    registry,
)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl", JsonlSink),
        ("a.log", JsonlSink),
        ("a", JsonlSink),
        ("a.csv", CsvSink),
        ("a.parquet", ParquetSink),
    ],
)
def test_the_suffix_decides(tmp_path, name, kind):
    for path in (tmp_path / name, str(tmp_path / name)):
        sink = as_sink(path)
        assert type(sink) is kind
        sink.write({"step": 1, "a": 0.5})
        sink.close()
    assert list(read_records(tmp_path / name, all=True)) == [{"step": 1, "a": 0.5}] * 2
    assert list(read_records(tmp_path / name)) == [{"step": 1, "a": 0.5}]


def test_a_suffix_that_is_written_is_read_and_not_refused():
    assert set(registry._BY_SUFFIX) == set(registry._READERS)
    assert not set(registry._BY_SUFFIX) & {*registry._OTHER_FORMATS, *registry._COMPRESSED}


def test_other_sinks(tmp_path):
    records = []
    as_sink(records.append).write({"step": 1})
    assert records == [{"step": 1}]
    ready = CallableSink(print)
    assert as_sink(ready) is ready
    with pytest.raises(TypeError, match="got int"):
        as_sink(3)


@pytest.mark.parametrize(
    "kind",
    [JsonlSink, CsvSink, ParquetSink, TensorBoardSink, WandbSink, MlflowSink, TrackioSink],
)
def test_every_sink_follows_the_protocol(kind):
    assert issubclass(kind, Sink)


def test_paths_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"got the directory.*metrics\.jsonl.*'tensorboard:/"):
        as_sink(tmp_path)
    (tmp_path / "a.parquet").write_text("")
    with pytest.raises(ValueError, match=r"a directory of Parquet files, or absent"):
        as_sink(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("sink", "package"),
    [
        ("tensorboard:x", "tensorboard"),
        ("wandb:x", "wandb"),
        ("mlflow:x", "mlflow"),
        ("trackio:x", "trackio"),
        ("x.parquet", "pyarrow"),
    ],
)
def test_a_missing_package_is_named_with_the_extra(sink, package, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"needs the package '{package}'.*pip install 'ncfast\[integrations\]'"
    with pytest.raises(ModuleNotFoundError, match=message):
        as_sink(sink)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["A.CSV", "A.Parquet", "A.JSONL"])
def test_suffixes_in_upper_case(tmp_path, name):
    as_sink(tmp_path / "a").close()
    kind = {"A.CSV": CsvSink, "A.Parquet": ParquetSink, "A.JSONL": JsonlSink}[name]
    sink = as_sink(tmp_path / name)
    assert type(sink) is kind
    sink.write({"step": 1, "a": 0.5})
    sink.close()
    assert list(read_records(str(tmp_path / name))) == [{"step": 1, "a": 0.5}]


def test_the_home_directory(tmp_path, monkeypatch):
    """``~`` is the user's home, not a folder of that name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("~/a.jsonl", Path("~/b.csv"), "~/c.parquet", "tensorboard:~/board"):
        sink = as_sink(name)
        sink.write({"step": 1, "a": 0.5})
        sink.close()
    assert {p.name for p in tmp_path.iterdir()} == {"a.jsonl", "b.csv", "c.parquet", "board"}
    assert list(read_records("~/a.jsonl")) == [{"step": 1, "a": 0.5}]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlfow:x", r"tensorboard:DIR, wandb:PROJECT, mlflow:EXPERIMENT, trackio:PROJECT.*'\./mlf"),
        ("csv:runs/a.csv", "the suffix|The suffix of a path says its format"),
        ("neptune:a/b", "Known names: tensorboard:DIR"),
        ("wandb", r"'wandb:PROJECT', or '\./wandb'"),
        ("tensorboard", "'tensorboard:DIR'"),
        ("mlflow", "'mlflow:EXPERIMENT'"),
        ("trackio", "'trackio:PROJECT'"),
        ("tensorboard:", "'tensorboard:DIR'"),
        ("s3://bucket/a.jsonl", "got the URL.*local path"),
        ("https://host/a.csv", "got the URL"),
        ("file:///tmp/a.jsonl", "got the URL"),
        (Path("gs://bucket/a.jsonl"), "got the URL"),
        ("a.jsonl.gz", r"not compressed.*'a\.jsonl'"),
        ("a.csv.ZST", "not compressed"),
        ("mlflow :x", r"without spaces around it.*'mlflow:x', or '\./mlflow :x'"),
        (" mlflow:x", "'mlflow:x'"),
        ("mlflow: x", "'mlflow:x'"),
        ("wandb ", "'wandb:PROJECT'"),
        ("tensorboard : ", "'tensorboard:DIR'"),
        ("neptune : a", "Known names: tensorboard:DIR"),
        (" a.csv", "without spaces at its ends.*'a.csv'"),
        ("a.csv\n", "'a.csv'"),
        ("a.tsv", r"\.jsonl, \.csv or \.parquet"),
        ("a.xlsx", "Other formats"),
        ("runs/new/", "got the directory"),
        ("", "got the directory"),
    ],
)
def test_names_that_stand_for_no_sink(tmp_path, monkeypatch, name, message):
    """A mistyped name is an error, never a file of that name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        as_sink(name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["./wandb", "./mlflow:x", "a b:c.jsonl", "lr0.1", "x/y:z.jsonl"])
def test_names_that_are_files_after_all(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    as_sink(name).close()
    assert Path(name).is_file()


def test_a_function_with_a_step_gets_it_there():
    calls = []
    sink = as_sink(lambda metrics, step=None: calls.append((metrics, step)))
    sink.write({"step": 3, "a": 0.5, "note": "text"})
    assert calls == [({"a": 0.5}, 3)]


@pytest.mark.parametrize("path", ["s3://bucket/a.jsonl", "a.jsonl.gz"])
def test_logs_that_cannot_be_read(path):
    with pytest.raises(ValueError, match="got"):
        read_records(path)


@pytest.mark.parametrize("kind", [str, Path, JsonlSink])
def test_a_single_sink_needs_no_list(tmp_path, kind):
    """``sinks="a.jsonl"`` is one file, and not one for each letter."""
    path = tmp_path / "a.jsonl"
    with ncfast.Tracker(num_classes=2, metrics="rnc1", sinks=kind(path)) as tracker:
        tracker.step(feats=torch.randn(8, 4), labels=torch.arange(8) % 2)
    assert [record["step"] for record in read_records(path)] == [1]
    assert {p.name for p in tmp_path.iterdir()} <= {"a.jsonl", "a.header.json"}
