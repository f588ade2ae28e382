"""Looks at a model without leaving a trace: eval mode, no gradients, random streams restored."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from ncfast.tracking.layers import model_device


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluate ``model`` inside; afterwards every mode and random stream is as it was.

    Covers each submodule's training flag, and the global streams of torch (CPU and the model's
    device), NumPy and Python: a DataLoader draws from the first even when it does not shuffle.
    """
    modes = [(module, module.training) for module in model.modules()]
    device = model_device(model)
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    devices = [device] if device.type == "cuda" else []
    try:
        model.eval()
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
