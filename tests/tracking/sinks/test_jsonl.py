import errno
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from ncfast.tracking.sinks import JsonlSink, read_records


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "log.jsonl"
    sink = JsonlSink(path)
    written = [{"step": 0, "a": 1.5}, {"step": 1, "a": math.inf, "b": 1e-300}]
    for record in written:
        sink.write(record)
        # on disk at once, whole
        assert path.read_bytes().endswith(b"}\n")
    sink.close()
    assert list(read_records(path)) == written


def test_nan_survives(tmp_path):
    sink = JsonlSink(tmp_path / "log.jsonl")
    sink.write({"step": 3, "a": math.nan})
    assert math.isnan(next(read_records(tmp_path / "log.jsonl"))["a"])
    sink.close()


@pytest.mark.parametrize("tail", ['{"step": 2, "a"', "{", '{"step": 2}'])
def test_a_half_written_last_line_is_ignored_and_then_removed(tmp_path, tail):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n' + tail)
    assert [record["step"] for record in read_records(path)] == [0, 1]
    sink = JsonlSink(path)
    sink.write({"step": 2})
    sink.close()
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n{"step": 2}\n'


def test_a_half_written_only_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0' + "0" * 200_000)
    JsonlSink(path).close()
    assert path.read_bytes() == b""


def test_damage_before_the_last_line_is_an_error(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0}\ngarbage\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl: line 2 is no JSON object"):
        list(read_records(path))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named():
    sink = JsonlSink("/dev/full")
    with pytest.raises(OSError, match="record of step 7") as caught:
        sink.write({"step": 7})
    assert caught.value.errno == errno.ENOSPC
    assert "/dev/full" in str(caught.value)
    sink.close()


def test_what_a_failed_write_left_is_taken_back(tmp_path):
    """A real limit on the file's size cuts the second line; the first one stays whole."""
    code = (
        "import resource, sys\n"
        "from ncfast.tracking.sinks import JsonlSink\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60, 60))\n"
        "sink = JsonlSink(sys.argv[1])\n"
        "sink.write({'step': 1, 'pad': 'x' * 20})\n"
        "try:\n    sink.write({'step': 2, 'pad': 'x' * 20})\n"
        "except OSError as error:\n    print(error)\n"
    )
    path = tmp_path / "log.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert "record of step 2" in done.stdout
    assert path.read_text() == json.dumps({"step": 1, "pad": "x" * 20}) + "\n"


def test_a_disk_that_fills_up_in_a_block_keeps_its_whole_lines(tmp_path):
    code = (
        "import resource, sys\n"
        "import torch\n"
        "from ncfast.tracking.records import RecordBatch, Table\n"
        "from ncfast.tracking.sinks import JsonlSink\n"
        "table = Table(['a'], [7, 8, 9], torch.ones(3, 1, dtype=torch.float64))\n"
        "sink = JsonlSink(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))\n"
        "try:\n    sink.write_block(RecordBatch([], [table]))\n"
        "except OSError as error:\n    print(error)\n"
    )
    path = tmp_path / "log.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert "record of step 9" in done.stdout
    assert path.read_text() == '{"step": 7, "a": 1.0}\n{"step": 8, "a": 1.0}\n'


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        JsonlSink(tmp_path / "file" / "log.jsonl")


def test_the_header_lies_beside_the_log(tmp_path):
    sink = JsonlSink(tmp_path / "log.jsonl")
    sink.start({"conventions": {"loss": "mean"}, "path": tmp_path})
    sink.write({"step": 0})
    sink.close()
    header = json.loads((tmp_path / "log.header.json").read_text())
    assert header == {"conventions": {"loss": "mean"}, "path": str(tmp_path)}
    assert list(read_records(tmp_path / "log.jsonl")) == [{"step": 0}]
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl", "log.header.json"}
    device = JsonlSink("/dev/null")
    device.start({})
    device.close()
    assert not Path("/dev/null.header.json").exists()
