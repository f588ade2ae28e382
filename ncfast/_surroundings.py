"""Calls that mean the same under autocast, precision settings and inference mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

# For functions that make tensors which are updated in place later: a tensor that was made in
# inference mode cannot be updated outside of it.
updatable = torch.inference_mode(False)


@contextmanager
def ieee_float32(device: torch.device) -> Iterator[None]:
    """Use IEEE float32 in matrix products on this device: no TF32, no bfloat16, no autocast.

    float64 products are not affected by these settings. Where torch has the new interface
    (`fp32_precision`, torch 2.9) it alone is used: it overrides `allow_tf32`, and torch raises an
    error if the old setting is read after the new one was set.
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
        setting.fp32_precision = "none"  # inherits from the parent setting
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
