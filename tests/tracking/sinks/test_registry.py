import sys

import pytest

from ncfast.tracking.sinks import (
    CallableSink,
    CsvSink,
    JsonlSink,
    ParquetSink,
    Sink,
    TensorBoardSink,
    WandbSink,
    as_sink,
    read_records,
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
    assert list(read_records(tmp_path / name)) == [{"step": 1, "a": 0.5}] * 2


def test_other_sinks(tmp_path):
    records = []
    as_sink(records.append).write({"step": 1})
    assert records == [{"step": 1}]
    ready = CallableSink(print)
    assert as_sink(ready) is ready
    with pytest.raises(TypeError, match="got int"):
        as_sink(3)


@pytest.mark.parametrize("kind", [JsonlSink, CsvSink, ParquetSink, TensorBoardSink, WandbSink])
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
    [("tensorboard:x", "tensorboard"), ("wandb:x", "wandb"), ("x.parquet", "pyarrow")],
)
def test_a_missing_package_is_named_with_the_extra(sink, package, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"needs the package '{package}'.*pip install 'ncfast\[integrations\]'"
    with pytest.raises(ModuleNotFoundError, match=message):
        as_sink(sink)
    assert not list(tmp_path.iterdir())
