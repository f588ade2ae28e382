"""These tests run kernels on the CPU: TRITON_INTERPRET=1 pytest tests/kernels/interpreted."""

import os

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETED else ["test_*.py"]


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """Fresh memory holds NaN, or an absurd integer: an element nobody writes is noticed."""
    import torch

    def empty(*size, **options):
        made = torch.zeros(*size, **options)
        return made.fill_(torch.nan if made.is_floating_point() else torch.iinfo(made.dtype).min)

    monkeypatch.setattr(torch, "empty", empty)


@pytest.fixture(autouse=True)
def no_fallback(monkeypatch):
    """A kernel that fails must fail every test it runs in."""
    from ncfast.backends import triton

    monkeypatch.setattr(triton, "_failures", {})
