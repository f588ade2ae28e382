"""Tests that no engine holds an N x N matrix."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ncfast.information.neighbors import neighbor_backends

CODE = """
import resource, torch
from ncfast.information.neighbors import joint_radii_and_counts, knn
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
def search(x):
    knn(x, 5, backend="{name}")
    if "{name}" in ("direct", "tree"):
        joint_radii_and_counts([x, x.flip(1)], 5, backend="{name}")
x = torch.randn(20_000, 3)
search(x[:500])
before = peak()
search(x)
print(peak() - before)
"""


@pytest.mark.parametrize("name", ["direct", "tree", "faiss", "gemm"])
def test_peak_memory(name: str) -> None:
    if not neighbor_backends()[name].available:
        pytest.skip(neighbor_backends()[name].reason)
    code = CODE.format(name=name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200, "MiB; N x N bytes would be 381"
