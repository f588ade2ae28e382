"""Fixtures of the kernel tests on the CPU: TRITON_INTERPRET=1 pytest tests/kernels/interpreted."""

import os

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETED else ["test_*.py"]


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """Fill new memory with NaN or an absurd integer, so that unwritten elements are noticed."""
    import torch

    def empty(*size, **options):
        made = torch.zeros(*size, **options)
        return made.fill_(torch.nan if made.is_floating_point() else torch.iinfo(made.dtype).min)

    monkeypatch.setattr(torch, "empty", empty)


@pytest.fixture(autouse=True)
def no_fallback(monkeypatch):
    """Let a failing kernel fail the test instead of falling back."""

    from ncfast.ops import _fallback

    monkeypatch.setattr(_fallback, "failures", {})
