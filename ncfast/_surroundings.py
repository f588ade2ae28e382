"""float32 products as certificates assume them, whatever autocast and precision settings say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


@contextmanager
def ieee_float32(device: torch.device) -> Iterator[None]:
    """IEEE float32 in matrix products on this device: no TF32, no bfloat16, no autocast.

    Products of float64 need none of this. Both generations of settings are honoured: a setting of
    the new interface (`fp32_precision`, torch 2.9) stands above `allow_tf32`, and reading the old
    one after the new one was set is an error in torch.
    """
    backends: Any = torch.backends
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if hasattr(backends.cuda.matmul, "fp32_precision"):
            for setting in (backends.cuda.matmul, backends.mkldnn.matmul):
                stack.enter_context(_ieee(setting))
        else:
            stack.enter_context(_highest())
        yield


@contextmanager
def _ieee(setting: Any) -> Iterator[None]:
    before = setting.fp32_precision
    setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        setting.fp32_precision = "none"  # which inherits from the setting above
        if setting.fp32_precision != before:
            setting.fp32_precision = before


@contextmanager
def _highest() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
