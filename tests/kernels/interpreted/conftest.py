"""Fixtures of the kernel tests on the CPU: TRITON_INTERPRET=1 pytest tests/kernels/interpreted.

With NCFAST_PTX=80 in place of TRITON_INTERPRET=1 the same tests run on the PTX that Triton compiles
for a device of capability 8.0, executed by tests/kernels/ptx.
"""

import os

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
EXECUTED = int(os.environ.get("NCFAST_PTX", "0"))
collect_ignore_glob = [] if INTERPRETED or EXECUTED else ["test_*.py"]
# two bounds on the rounding of a score differ in the last place; the decision is the same by either
HARMLESS = "decide_in_float32: threads of a warp write different values"
SEED = 3  # of the errors of approximate instructions, and of the order of blocks


@pytest.fixture(autouse=True)
def watched_memory(monkeypatch):
    """Notice what was never written, by its state, or by NaN or an absurd integer in new memory."""
    import torch

    if EXECUTED:
        from ptx.launches import Executed

        monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # warns of a new default where unset
        with Executed(EXECUTED, SEED) as gpu:
            yield
        unspecified = {note for note in gpu.notes if not note.startswith(HARMLESS)}
        assert not unspecified
        return

    def empty(*size, **options):
        made = torch.zeros(*size, **options)
        return made.fill_(torch.nan if made.is_floating_point() else torch.iinfo(made.dtype).min)

    monkeypatch.setattr(torch, "empty", empty)
    yield


@pytest.fixture(autouse=True)
def no_fallback(monkeypatch):
    """Let a failing kernel fail the test instead of falling back."""

    from ncfast.ops import _fallback

    monkeypatch.setattr(_fallback, "failures", {})
