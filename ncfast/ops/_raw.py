"""Says whether the memory of a tensor may be read, and passes its address to the C++ extension.

The extension receives addresses only. A caller checks with `plain` or `readable` that they are
valid: the tensors are ordinary CPU tensors, and nothing is being traced. Everything else goes
through an operator of `torch.ops.ncfast`.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from ncfast.ops import _build

FEATURE_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_LABEL_CODES = {torch.int8: 0, torch.int16: 1, torch.int32: 2, torch.int64: 3, torch.uint8: 4}
# new_empty takes 0.8 us where torch.empty with a dtype takes 2: five outputs a call
INT64 = torch.empty(0, dtype=torch.int64, device="cpu")
FLOAT64 = torch.empty(0, dtype=torch.float64, device="cpu")
_MOST_ROWS = 1 << 31  # the extension's row numbers are 32 bits wide
# non-empty while a dispatch mode records operations, or functorch transforms them
_recorded = torch._C._len_torch_dispatch_stack
_transformed = torch._C._functorch.peek_interpreter_stack


def _load() -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module("ncfast._C"), ""
    except ImportError as error:
        return None, str(error)


extension, import_error = _load()


def loaded() -> ModuleType:
    """The extension; the caller has checked that it is there."""
    assert extension is not None, import_error
    return extension


def traced(*tensors: Tensor) -> bool:
    """Whether operations on these tensors are recorded, faked or transformed."""
    if torch.compiler.is_compiling() or _recorded() or _transformed():
        return True
    for tensor in tensors:  # noqa: SIM110  a generator would take half a microsecond
        if type(tensor) is FakeTensor:
            return True
    return False


def transformed() -> bool:
    """Whether functorch transforms what is running, as in vmap or grad."""
    return not torch.compiler.is_compiling() and _transformed() is not None


def plain(*tensors: Tensor) -> bool:
    """Whether these are ordinary CPU tensors and no tracer is active."""
    if traced():
        return False
    for tensor in tensors:
        # the memory of a negative view holds the numbers with the other sign
        if type(tensor) is not Tensor or not tensor.is_cpu or tensor.is_neg():
            return False
    return True


def why_not_cpu(feats: Tensor) -> str | None:
    """The reason why the extension cannot read ``feats``, tracing aside; None if it can."""
    if not feats.is_cpu:
        return f"the features are on {feats.device}"
    if type(feats) not in (Tensor, nn.Parameter, FakeTensor):  # an operator takes the last one
        return f"the features are a {type(feats).__name__}, whose memory is not theirs to read"
    return None


def present(feats: Tensor) -> bool:
    """Whether there is an extension. Without it, the first call with many features warns."""
    if extension is not None:
        return True
    if not traced(feats) and feats.is_cpu and feats.numel() >= _build.NOTABLE_NUMBERS:
        _build.warn_once(import_error)
    return False


def readable(feats: Tensor) -> bool:
    """Whether the extension can read ``feats`` (N, D) without a copy."""
    if not present(feats):
        return False
    usable = why_not_cpu(feats) is None and feats.shape[0] < _MOST_ROWS
    return usable and not traced(feats) and dense_rows(feats)


def dense_rows(feats: Tensor, *others: Tensor) -> bool:
    """Whether the columns of ``feats`` (N, D) are adjacent, and all tensors have memory."""
    if feats.stride()[1] != 1 and feats.shape[1] != 1:
        return False
    return have_memory(feats, *others)


def have_memory(*tensors: Tensor | None) -> bool:
    """Whether the memory of all these tensors that are given holds their numbers."""
    for tensor in tensors:
        # a wrapper around other tensors has no memory of its own: its address is 0
        if tensor is not None and (tensor.is_neg() or not tensor.data_ptr()):
            return False
    return True


def matrix(feats: Tensor) -> tuple[int, ...]:
    """Address, dtype, rows, columns and stride: the arguments of the extension for a matrix."""
    return feats.data_ptr(), FEATURE_CODES[feats.dtype], *feats.shape, feats.stride()[0]


def label_code(labels: Tensor) -> int | None:
    """The number that the extension gives to the dtype of the labels."""
    return _LABEL_CODES.get(labels.dtype)


def with_code(labels: Tensor) -> tuple[Tensor, int]:
    """Labels in a dtype that the extension reads, and its number."""
    code = _LABEL_CODES.get(labels.dtype)
    if code is None:
        labels, code = as_int64(labels), _LABEL_CODES[torch.int64]
    return labels, code


def as_int64(labels: Tensor) -> Tensor:
    """Labels as int64; those of uint64 above the range become the lowest number, which is no class.

    A plain conversion makes 2^64 - 100 the -100 that `ignore_index` leaves out.
    """
    wide = labels.to(torch.int64)
    if labels.dtype != torch.uint64:
        return wide
    return torch.where(wide < 0, torch.iinfo(torch.int64).min, wide)


def classes_copy(labels: Tensor, number: int) -> Tensor:
    """Labels the extension may index by: a copy in 0..K-1 that no other thread writes to."""
    return labels.to(torch.int64).clamp(0, number - 1).contiguous()


@functools.cache
def tensor_reader(extension: ModuleType | None) -> Any | None:
    """An object that reads tensors in C++, without one Python call per tensor.

    It uses PyTorch's table of C functions for DLPack. It takes plain tensors and parameters on the
    CPU only, and only while nothing is traced.

    Returns:
        None without the extension, or with a PyTorch that has no such table.
    """
    table = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if extension is None or table is None:
        return None
    return extension.TensorReader(
        Tensor, nn.Parameter, table, (_recorded, _transformed), torch.get_num_threads
    )
