"""Tests the peak memory of a call: it includes what the call allocates and nothing older."""

import pytest
import torch

from ncfast.benchmarks import memory

MIB = 1 << 20
linux = pytest.mark.skipif(not memory.FORGET.exists(), reason="Linux tells the peak, others do not")


@linux
def test_the_peak_of_a_call():
    kept = torch.ones(8 * MIB)
    with memory.Peak() as peak:
        torch.ones(16 * MIB).sum()
    assert peak.bytes is None or 48 * MIB < peak.bytes < 96 * MIB
    with memory.Peak() as peak:
        kept[:10].sum()
    assert peak.bytes is None or peak.bytes < 24 * MIB


def test_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "FORGET", tmp_path / "no" / "such")
    with memory.Peak() as peak:
        torch.ones(100)
    assert peak.bytes is None
