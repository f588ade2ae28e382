"""Runs a model to measure it: in eval mode, on its device, with inputs of any form."""

from __future__ import annotations

import contextlib
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn


def uncompiled(model: nn.Module) -> nn.Module:
    """The original module of a compiled model; any other model is returned unchanged."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def model_device(model: nn.Module) -> torch.device:
    """The device of the model's first parameter; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode without gradients; restore all modes and random streams.

    The modes are the training flags of all submodules. The streams are the global ones of torch
    (CPU and the model's device), NumPy and Python: a DataLoader draws from torch's stream even when
    it does not shuffle.
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


def outputs_of(model: nn.Module, inputs: Any, device: torch.device) -> Any:
    """The model's outputs for the inputs of a batch, which are moved to ``device``.

    The model gets a dict by keyword and a tuple by position if its signature allows, and anything
    else as its only argument. Arrays become tensors.
    """
    inputs = _moved(inputs, device)
    if isinstance(inputs, Mapping) and _takes(model, lambda s: s.bind(**inputs)):
        return model(**inputs)
    if isinstance(inputs, tuple) and _takes(model, lambda s: s.bind(*inputs)):
        return model(*inputs)
    # a DataLoader turns a tuple into a list
    if isinstance(inputs, list) and not _takes(model, lambda s: s.bind(inputs)):
        return model(*inputs)
    return model(inputs)


def _takes(model: nn.Module, bind: Callable[[inspect.Signature], object]) -> bool:
    try:
        bind(inspect.signature(model.forward))
    except (TypeError, ValueError):
        return False
    return True


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.as_tensor(value, device=device)
    if isinstance(value, Mapping):
        return {key: _moved(entry, device) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_moved(entry, device) for entry in value)
    return value.to(device) if hasattr(value, "to") else value
