"""Decides whether backend "auto" takes the kernels for a call on a CUDA device.

It takes them where the self-check found them correct (`_verdicts.py`). While a CUDA graph is
captured it takes them only for arguments like those of an earlier eager call, whose kernels are
loaded: loading a kernel would end the capture.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Hashable, Iterable
from typing import Any, ParamSpec

import torch
from torch import Tensor, nn

from ncfast._warnings import user_level
from ncfast.ops import _background, _raw, _verdicts

P = ParamSpec("P")
VARIABLE = "NCFAST_TRITON"  # 1: "auto" takes the kernels unchecked; 0: never
_MOST_ROWS = 1 << 31  # the kernels' row numbers are 32 bits wide
_MOST_CALLS = 4096  # remembered for captures
_ran: set[Hashable] = set()


def offered(operation: str, dtype: torch.dtype, device: torch.device, entries: int) -> bool:
    """Whether "auto" may take kernels of an operation: some path of it is proven.

    If none is, an eager call looks for new verdicts. The first one that would gain by kernels
    starts the self-check in the background, where that is allowed (`_background.consider`). Nothing
    waits.

    Args:
        operation: see `_verdicts.verdict`.
        dtype: of the features.
        device: of the features.
        entries: their number.
    """
    if torch.compiler.is_compiling():
        return _offered_while_traced(operation, dtype, device)
    if some_proven(operation, dtype, device):
        return True
    if forced() is None and not _raw.traced() and not torch.cuda.is_current_stream_capturing():
        _background.consider(device, entries)
        _verdicts.refresh(device)
        return some_proven(operation, dtype, device)
    return False


def usable(operation: str, path: str, feats: Tensor, arguments: Iterable[Any] = ()) -> bool:
    """Whether "auto" takes the kernels of one path of an operation for this call.

    Args:
        operation: see `_verdicts.verdict`.
        path: see there.
        feats: (N, D), what the kernels would read.
        arguments: everything that the kernels may be specialised for.
    """
    if torch.compiler.is_compiling():
        return _proven_while_traced(operation, path, feats.dtype, feats.device)
    if not proven(operation, path, feats.dtype, feats.device):
        return False
    if _raw.transformed() or len(feats) >= _MOST_ROWS:
        return False
    if _raw.traced(feats):
        return True
    if type(feats) not in (Tensor, nn.Parameter) or not _raw.have_memory(feats):
        return False
    signature = _signature(operation, path, arguments)
    if torch.cuda.is_current_stream_capturing():
        return signature in _ran
    if len(_ran) < _MOST_CALLS:
        _ran.add(signature)
    return True


def proven(operation: str, path: str, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernels passed the self-check, or the user said so; a look-up."""
    said = forced()
    return _verdicts.verdict(operation, path, dtype, device).usable if said is None else said


def some_proven(operation: str, dtype: torch.dtype, device: torch.device) -> bool:
    """`proven` of any path."""
    said = forced()
    return _verdicts.some_usable(operation, dtype, device) if said is None else said


def _constant(function: Callable[P, bool]) -> Callable[P, bool]:
    """``function``, whose result code compiled by torch.compile keeps as it was when traced.

    It does what `torch.compiler.assume_constant_result` does, without importing the compiler.
    """

    @functools.wraps(function)
    def held(*given: P.args, **named: P.kwargs) -> bool:
        return function(*given, **named)

    vars(held)["_dynamo_marked_constant"] = True
    return held


_proven_while_traced = _constant(proven)
_offered_while_traced = _constant(some_proven)


def forced() -> bool | None:
    """What the variable NCFAST_TRITON says; None if it says nothing."""
    said = os.environ.get(VARIABLE, "")
    if said in ("0", "1"):
        return said == "1"
    if said:
        warnings.warn(
            f"Expected the environment variable {VARIABLE} to be 0, 1 or empty but got {said!r}. "
            "It is ignored.",
            RuntimeWarning,
            stacklevel=user_level(),
        )
    return None


def _signature(operation: str, path: str, arguments: Iterable[Any]) -> Hashable:
    return operation, path, *map(_sign, arguments)


def _sign(argument: Any) -> Hashable:
    if isinstance(argument, Tensor):
        aligned = argument.data_ptr() & 15
        return argument.shape, argument.stride(), argument.dtype, argument.device, aligned
    if isinstance(argument, (int, float, str, type(None))):
        return argument
    if isinstance(argument, Iterable):
        return tuple(map(_sign, argument))
    parts = getattr(argument, "__dict__", {})
    return type(argument).__name__, *map(_sign, parts.values())
