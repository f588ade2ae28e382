"""Tests streaming of a file in chunks: its accuracy and the record of memory."""

import json
import mmap
import time

import pytest
import torch

from ncfast.benchmarks import streaming

pytestmark = pytest.mark.skipif(
    not hasattr(streaming.os, "posix_fadvise"), reason="reads /proc and the page cache of Linux"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "CHUNK_ROWS", 256)
    about = streaming.make(tmp_path, 4 * 8 * 256 * 5, dim=8, classes=6)
    assert about == {"rows": 5 * 256, "dim": 8, "classes": 6}
    return tmp_path


def test_streamed_moments_are_right(folder):
    found = streaming.measure(folder)
    assert found["ok"]
    assert found["file_bytes"] == 4 * 8 * 5 * 256
    assert max(found["error"].values()) < 1e-7
    assert found["subset_difference"] < 1e-7
    assert found["memory_over_time"]["rows"][0][1] == found["anonymous_mib"]["first"] > 0


def test_the_truth_is_that_of_the_stored_rows(folder):
    feats = torch.from_file(str(folder / "feats.bin"), size=5 * 256 * 8).view(-1, 8).double()
    labels = torch.from_file(str(folder / "labels.bin"), size=5 * 256, dtype=torch.int64)
    truth = torch.load(folder / "truth.pt")
    means = torch.stack([feats[labels == c].mean(0) for c in range(6)])
    within = (feats - means[labels]).square().sum()
    torch.testing.assert_close(truth["means"], means, rtol=1e-13, atol=0)
    torch.testing.assert_close(truth["within"], within, rtol=1e-12, atol=0)


def test_an_error_is_told(folder):
    truth = torch.load(folder / "truth.pt")
    truth["within"] *= 1.01
    torch.save(truth, folder / "truth.pt")
    assert not streaming.measure(folder)["ok"]


def test_a_sampler_sees_memory_that_is_taken():
    # Mapped memory, because the allocator may reuse memory that the process already holds.
    with (
        streaming.Sampler(every=0.01) as sampler,
        mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block,
    ):
        block.write(b"1" * len(block))
        taken = len(sampler.rows)
        while len(sampler.rows) < taken + 2:  # the first sample may be older than the last page
            time.sleep(0.01)
    anonymous = [row[1] for row in sampler.rows]
    assert max(anonymous) - anonymous[0] > 48


def test_the_command(folder, monkeypatch):
    out = folder / "streaming.json"
    assert streaming.main([str(folder), "--only", "measure", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["schema"] == 1
    assert report["environment"]["torch"] == torch.__version__
