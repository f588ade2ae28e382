"""Fixtures of the backend tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ncfast.ops import _raw

INSTRUCTION_SETS = _raw.extension.instruction_sets() if _raw.extension is not None else []


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once with each instruction set that this CPU supports."""
    before = _raw.extension.instruction_set()
    assert _raw.extension.use_instruction_set(request.param)
    yield request.param
    _raw.extension.use_instruction_set(before)


class Poisoned:
    """Stands for an empty tensor; makes tensors of NaN, so that unwritten entries fail a test."""

    def __init__(self, dtype: torch.dtype, value: float) -> None:
        self.dtype, self.value = dtype, value

    def new_empty(self, shape: tuple[int, ...] | int) -> Tensor:
        size = (shape,) if isinstance(shape, int) else shape
        return torch.full(size, self.value, dtype=self.dtype, device="cpu")


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill the outputs of the C++ backend with NaN before it writes them."""
    monkeypatch.setattr(_raw, "FLOAT64", Poisoned(torch.float64, float("nan")))
    monkeypatch.setattr(_raw, "INT64", Poisoned(torch.int64, -(10**9)))
