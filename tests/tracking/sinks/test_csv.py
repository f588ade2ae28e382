import csv
import errno
import json
import math
from pathlib import Path

import pytest

from ncfast.tracking.sinks import CsvSink, read_records


def written(path, *records):
    sink = CsvSink(path)
    for record in records:
        sink.write(record)
        assert path.read_bytes().endswith(b"\n"), "on disk at once, whole"
    sink.close()
    return path


def test_a_row_a_record(tmp_path):
    path = written(
        tmp_path / "deep" / "log.csv",
        {"step": 0, "train/rnc1.max": 0.1 + 0.2, "b": math.inf},
        {"b": -1e-300, "step": 1},
        {"step": 2, "b": math.nan, "train/rnc1.max": 3},
    )
    lines = path.read_text().splitlines()
    assert lines[0] == "step,train/rnc1.max,b"
    assert lines[1:] == ["0,0.30000000000000004,inf", "1,,-1e-300", "2,3,nan"]
    found = list(read_records(path))
    assert found[0] == {"step": 0, "train/rnc1.max": 0.1 + 0.2, "b": math.inf}
    assert found[1] == {"step": 1, "b": -1e-300}
    assert math.isnan(found[2]["b"])


def test_a_key_that_comes_later_becomes_a_column_on_the_right(tmp_path):
    path = written(tmp_path / "log.csv", {"step": 0, "a": 1.5}, {"step": 1, 'test/"x",y': 2.0})
    assert path.read_text() == 'step,a,"test/""x"",y"\n0,1.5,\n1,,2.0\n'
    assert list(read_records(path)) == [{"step": 0, "a": 1.5}, {"step": 1, 'test/"x",y': 2.0}]
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.csv"], "nothing left behind"
    with path.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2


def test_an_existing_file_is_continued_without_its_unfinished_row(tmp_path):
    path = written(tmp_path / "log.csv", {"step": 0, "a": 1.0})
    with path.open("a") as file:
        file.write("1,2.")
    assert list(read_records(path)) == [{"step": 0, "a": 1.0}]
    written(path, {"step": 1, "a": 2.0, "b": 3.0})
    assert path.read_text() == "step,a,b\n0,1.0,\n1,2.0,3.0\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named():
    sink = CsvSink("/dev/full")
    for _ in range(2):
        with pytest.raises(OSError, match="record of step 7") as caught:
            sink.write({"step": 7})
    assert caught.value.errno == errno.ENOSPC
    sink.close()


def test_a_full_disk_while_columns_are_added_keeps_the_file(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    sink = CsvSink(path)
    sink.write({"step": 0})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ncfast._files.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            sink.write({"step": 1, "b": 1.0})
    assert path.read_text() == "step\n0\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.csv"]
    sink.write({"step": 2, "b": 1.0})
    sink.close()
    assert path.read_text() == "step,b\n0,\n2,1.0\n"


def test_a_device_cannot_get_new_columns_and_is_not_replaced():
    sink = CsvSink("/dev/null")
    sink.start({"a": 1})
    sink.write({"step": 0})
    with pytest.raises(ValueError, match=r"\['step'\] in every record for /dev/null.*Write to a f"):
        sink.write({"step": 1, "b": 2.0})
    sink.close()
    assert Path("/dev/null").is_char_device()


def test_a_link_stays_a_link(tmp_path):
    written(tmp_path / "real.csv", {"step": 0})
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    written(tmp_path / "link.csv", {"step": 1, "a": 1.0})
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == "step,a\n0,\n1,1.0\n"


def test_the_header_lies_beside_the_table(tmp_path):
    sink = CsvSink(tmp_path / "log.csv")
    sink.start({"a": 1})
    sink.close()
    assert json.loads((tmp_path / "log.header.json").read_text()) == {"a": 1}
