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
    """IEEE float32 in matrix products on this device: no TF32, no bfloat16, no autocast.

    Products of float64 need none of this. Both generations of settings are honoured: a setting of
    the new interface (`fp32_precision`) stands above `allow_tf32`, and reading the old one after
    the new one was set is an error in torch.
    """
    backends: Any = torch.backends
    settings = [backends.cuda.matmul, backends.mkldnn.matmul]
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        for setting in settings:
            stack.enter_context(_ieee(setting))
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
