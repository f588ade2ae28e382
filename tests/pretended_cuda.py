"""A device that says it is CUDA and computes on the CPU: for code that chooses by the device.

A tensor made by `pretended` reports ``cuda:0``. Every operation runs on the tensor in memory below
it, and its results are on the same device. What moves to the host is counted. The device has no
streams and no kernels of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

CUDA = torch.device("cuda", 0)
_DEVICE = torch.ops.prim.device.default
_TO = torch.ops.aten._to_copy.default
_SQRT = torch.ops.aten.sqrt.default
_READ = torch.ops.aten._local_scalar_dense.default


class OnCuda(Tensor):
    """A tensor in memory, ``below``, that reports a CUDA device."""

    below: Tensor

    @staticmethod
    def __new__(cls, below: Tensor) -> OnCuda:
        # without values: its own device has no operations that would have to be loaded
        shape = torch.empty_strided(
            below.size(), below.stride(), dtype=below.dtype, device="meta", requires_grad=False
        )
        return Tensor._make_subclass(cls, shape, False, dispatch_device=True)

    def __init__(self, below: Tensor) -> None:
        self.below = below

    def __repr__(self) -> str:
        return f"OnCuda({self.below!r})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is _DEVICE:
            return torch.device("meta") if _inside else CUDA
        kwargs = dict(kwargs or {})
        flat, form = tree_flatten((args, kwargs))
        known = {id(each.below): each for each in flat if isinstance(each, OnCuda)}
        _refuse_a_mixture(function, flat)
        leaves = [each.below if isinstance(each, OnCuda) else _on_cpu(each) for each in flat]
        given, named = tree_unflatten(leaves, form)
        found = _square_root(*given) if function is _SQRT else function(*given, **named)
        if function is _READ:
            moved.append(1)
            return found
        if function is _TO and kwargs.get("device") is not None and _is_cpu(kwargs["device"]):
            moved.append(found.numel())
            return found
        return tree_map(
            lambda each: known.get(id(each), OnCuda(each)) if isinstance(each, Tensor) else each,
            found,
        )


def _square_root(values: Tensor) -> Tensor:
    return torch.from_numpy(np.sqrt(values.numpy()))  # rounded as IEEE 754 says, as on CUDA


moved: list[int] = []  # number of entries of each copy to the host


def _is_cpu(device) -> bool:
    return torch.device(device).type == "cpu"


def _on_cpu(leaf):
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf


def _refuse_a_mixture(function, flat) -> None:
    """Raise an error as CUDA does: only numbers and sources of copies may be in memory."""
    assert not any(
        isinstance(each, Tensor) and each.is_meta for each in flat if type(each) is Tensor
    )
    if function in (_TO, torch.ops.aten.copy_.default):
        return
    for each in flat:
        if isinstance(each, Tensor) and not isinstance(each, OnCuda) and each.ndim > 0:
            raise RuntimeError(f"{function}: expected all tensors on cuda:0 but one is on the CPU")


_inside: list[None] = []  # not empty while a function of torch runs, which would load CUDA
_READS = (
    Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.__index__, Tensor.item, Tensor.tolist
)  # fmt: skip


def _without_cuda(given, named):
    """The positional arguments of `Tensor.to`, with a CUDA device among the named ones."""
    for each in given:
        if isinstance(each, torch.device | str) and torch.device(each).type == "cuda":
            named["device"] = each
    return [each for each in given if each is not named.get("device")]


def _tensor(value, dtype):
    is_tensor = isinstance(value, Tensor)
    return value if is_tensor else OnCuda(torch.tensor(value, dtype=dtype, device="cpu"))


_INDEXES = (Tensor.__getitem__, Tensor.__setitem__)


class _Calls(TorchFunctionMode):
    """Makes tensors in memory where a function is asked for one on CUDA, and wraps them."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if getattr(function, "__name__", "") == "__get__":  # x.device, x.is_cuda
            return function(*args, **kwargs)
        if function in _READS and isinstance(args[0], OnCuda):
            moved.append(args[0].numel())
            return function(args[0].below)
        if function is torch.where and len(args) == 3 and isinstance(args[0], OnCuda):
            types = (each.dtype for each in args[1:] if isinstance(each, Tensor))
            dtype = next(types, None)
            args = (args[0], *(_tensor(each, dtype) for each in args[1:]))
        if function is torch.nn.functional.one_hot and isinstance(args[0], OnCuda):
            return OnCuda(function(args[0].below, *args[1:], **kwargs))  # it makes a tensor, too
        if function is Tensor.to:
            args, kwargs = (args[0], *_without_cuda(args[1:], kwargs)), kwargs
        device = kwargs.get("device")
        asked = device is not None and torch.device(device).type == "cuda"
        if asked:
            kwargs["device"] = "cpu"
        if function in _INDEXES and isinstance(args[0], OnCuda):  # CUDA moves indices by itself
            index = tree_map(lambda each: OnCuda(each) if type(each) is Tensor else each, args[1])
            args = (args[0], index, *(_tensor(each, args[0].dtype) for each in args[2:]))
        _inside.append(None)
        try:
            found = function(*args, **kwargs)
        finally:
            _inside.pop()
        return OnCuda(found) if asked and not isinstance(found, OnCuda) else found


@contextlib.contextmanager
def pretended() -> Iterator[list[int]]:
    """Let factory functions take the device; yields the list of what moves to the host."""
    moved.clear()
    with _Calls():
        yield moved
