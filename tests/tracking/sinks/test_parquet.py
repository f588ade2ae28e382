import errno
import json
import math
import signal
import subprocess
import sys

import pyarrow.parquet
import pytest

from ncfast.tracking.sinks import ParquetSink, read_records


def test_a_directory_of_parts_reads_as_one_table(tmp_path):
    path = tmp_path / "deep" / "log.parquet"
    sink = ParquetSink(path, rows=2)
    records = [{"step": step, "a": step / 3, "epoch": step // 2} for step in range(5)]
    for record in records:
        sink.write(record)
    assert len(list(path.iterdir())) == 2
    sink.close()
    assert len(list(path.iterdir())) == 3
    table = pyarrow.parquet.read_table(path)
    assert table.schema.types == [pyarrow.int64(), pyarrow.float64(), pyarrow.float64()]
    assert table.to_pylist() == records
    assert list(read_records(path)) == records


def test_nan_stays_apart_from_absent(tmp_path):
    path = tmp_path / "log.parquet"
    sink = ParquetSink(path)
    sink.write({"step": 0, "a": math.nan})
    sink.write({"step": 1, "b": math.inf})
    sink.close()
    first, second = read_records(path)
    assert math.isnan(first.pop("a"))
    assert first == {"step": 0}
    assert second == {"step": 1, "b": math.inf}


def test_a_key_that_comes_later_is_added_to_the_earlier_parts(tmp_path):
    path = tmp_path / "log.parquet"
    sink = ParquetSink(path, rows=1)
    sink.start({"conventions": "stated"})
    records = [{"step": 0, "a": 1.0}, {"step": 1, "b": 2.0}, {"step": 2, "note": "text"}]
    for record in records:
        sink.write(record)
    sink.close()
    for part in path.iterdir():
        schema = pyarrow.parquet.read_schema(part)
        assert schema.names == ["step", "a", "b", "note"]
        assert json.loads(schema.metadata[b"ncfast"]) == {"conventions": "stated"}
    assert list(read_records(path)) == records
    assert pyarrow.parquet.read_table(path)["b"].to_pylist() == [None, 2.0, None]


def test_an_existing_directory_is_continued(tmp_path):
    path = tmp_path / "log.parquet"
    for step in range(3):
        sink = ParquetSink(path)
        sink.write({"step": step, f"key {step}": 1.0})
        sink.flush()
        sink.flush()
        sink.close()
    assert [part.name for part in sorted(path.iterdir())] == [
        f"part-{n:06d}.parquet" for n in range(3)
    ]
    assert list(read_records(path)) == [{"step": n, f"key {n}": 1.0} for n in range(3)]


def test_a_part_grows_at_every_flush_until_it_is_full(tmp_path):
    path = tmp_path / "log.parquet"
    sink = ParquetSink(path, rows=4)
    for step in range(10):
        sink.write({"step": step})
        sink.flush()
        assert [record["step"] for record in read_records(path)] == list(range(step + 1))
    assert len(list(path.iterdir())) == 3
    sink.close()


def test_a_record_does_not_wait_for_ever(tmp_path):
    path = tmp_path / "log.parquet"
    sink = ParquetSink(path, seconds=0.0)
    sink.write({"step": 0})
    assert list(read_records(path)) == [{"step": 0}]
    sink.close()


def test_a_killed_process_leaves_whole_parts(tmp_path):
    path = tmp_path / "log.parquet"
    code = (
        "import os, signal, sys\n"
        "from ncfast.tracking.sinks import ParquetSink\n"
        "sink = ParquetSink(sys.argv[1], rows=10)\n"
        "for step in range(25):\n    sink.write({'step': step})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [record["step"] for record in read_records(path)] == list(range(20))


def test_a_full_disk_keeps_the_parts_before_and_what_is_pending(tmp_path, monkeypatch):
    path = tmp_path / "log.parquet"
    sink = ParquetSink(path, rows=1)
    sink.write({"step": 0})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ncfast._files.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            sink.write({"step": 1})
    assert list(read_records(path)) == [{"step": 0}]
    sink.close()
    assert list(read_records(path)) == [{"step": 0}, {"step": 1}]
