"""The C++ backend with threads, in forked children and in bounded memory."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import pytest
import torch
from cluster_data import features
from torch import Tensor

from ncfast.ops import _raw
from ncfast.ops import moments as passes

pytestmark = [
    pytest.mark.skipif(_raw.extension is None, reason=f"no extension: {_raw.import_error}"),
    pytest.mark.usefixtures("poison"),
]


@pytest.mark.parametrize(
    ("rows", "dim", "classes"), [(90000, 40, 11), (40000, 40, 11), (280000, 4, 3000)]
)
def test_same_bits_for_any_number_of_threads(rows: int, dim: int, classes: int) -> None:
    feats, labels = features(rows, dim, classes)
    feats = feats.float()
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3, 8, 2):
        torch.set_num_threads(threads)
        results.append(passes.cpu(feats, labels, classes))
    torch.set_num_threads(before)
    for result in results[1:]:
        for a, b in zip(results[0], result, strict=True):
            assert torch.equal(a, b)


def _child(feats: Tensor, labels: Tensor, queue: object) -> None:
    queue.put(float(passes.cpu(feats, labels, 3).norm_sum))  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.timeout(60)
def test_a_forked_child_does_not_hang() -> None:
    feats, labels = features(60000, 50, 3)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    expected = float(passes.cpu(feats, labels, 3).norm_sum)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=_child, args=(feats, labels, queue)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    assert [queue.get() for _ in children] == [expected] * 3
    assert float(passes.cpu(feats, labels, 3).norm_sum) == expected
    torch.set_num_threads(before)


MEMORY_SCRIPT = """
import sys, torch
from pathlib import Path
from ncfast.ops import moments as passes

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024

rows, dim, classes = map(int, sys.argv[1:])
torch.set_num_threads(2)
feats = torch.ones(1, dim).expand(rows, dim)  # any N without the memory of N rows
labels = (torch.arange(rows, dtype=torch.int32) * 7) % classes
passes.cpu(feats[:1000], labels[:1000], classes)
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
raw = passes.cpu(feats, labels, classes)
state = (raw.means.numel() + 2 * classes) * 8 / 2**20
print(status("VmHWM") - before - state)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("rows", "dim", "classes"), [(12_000_000, 2, 5), (6_000_000, 2, 200_000), (2000, 16384, 3)]
)
def test_extra_memory_is_bounded(rows: int, dim: int, classes: int) -> None:
    command = [sys.executable, "-c", MEMORY_SCRIPT, str(rows), str(dim), str(classes)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 64  # MiB


UPDATE_SCRIPT = MEMORY_SCRIPT.replace("raw = passes.cpu(feats, labels, classes)", "raw = update()")
UPDATE_SCRIPT = UPDATE_SCRIPT.replace(
    "before = status",
    """
from ncfast import ClassMoments
from ncfast.ops.update import UPDATE
moments = ClassMoments.empty(classes, dim)
scatter = torch.zeros(dim, dim, dtype=torch.float64)
moments.means.fill_(0.0), moments.within_ss.fill_(0.0), moments.counts.fill_(0)
def update():
    UPDATE.select("cpu", feats)(feats, labels, moments, scatter=scatter if dim < 64 else None)
    return moments
before = status""",
    1,
).replace("- before - state", "- before")


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("rows", "dim", "classes"), [(12_000_000, 2, 5), (6_000_000, 2, 200_000), (2000, 16384, 3)]
)
def test_extra_memory_of_an_update_is_bounded(rows: int, dim: int, classes: int) -> None:
    command = [sys.executable, "-c", UPDATE_SCRIPT, str(rows), str(dim), str(classes)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 64  # MiB
