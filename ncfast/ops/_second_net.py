"""Compares kernels with the reference on the first rows, at their first use in a process.

The self-check cannot compile every variant of a kernel that a program will need. Each variant is
therefore compared once more, on the program's own features. The answer is copied to the host while
the program goes on, and read at a later call or at the exit: no call waits for the device.
"""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ncfast.ops import _raw
from ncfast.ops._comparison import Comparison, everything

MARGIN = 50  # times the allowed error: features may be worse than those of the self-check


class _Answer(NamedTuple):
    ratio: Tensor  # () on the host: the largest error as a multiple of what is allowed
    event: torch.cuda.Event | None  # passes when the ratio has arrived; None on the CPU
    tell: Callable[[float], None]


_compared: set[Hashable] = set()
_answers: list[_Answer] = []


def applies(feats: Tensor) -> bool:
    """Whether kernels on ``feats`` are compared: in an eager call on a CUDA device, no capture."""
    return (
        feats.is_cuda
        and type(feats) in (Tensor, nn.Parameter)
        and not _raw.traced(feats)
        and not torch.cuda.is_current_stream_capturing()
    )


def is_new(kind: Hashable) -> bool:
    """Whether no call of this kind was seen before; the next time it was."""
    if kind in _compared:
        return False
    _compared.add(kind)
    return True


def start(largest_error: Callable[[], Tensor], tell: Callable[[float], None]) -> None:
    """Queue a comparison on the device.

    Args:
        largest_error: runs both forms, see `error_on_first_rows`.
        tell: is called with the error if that is too large, by a later `read_answers`.

    Raises:
        Exception: whatever the kernels raise, but for lack of memory.
    """
    try:
        ratio = largest_error()
        event = None
        if ratio.is_cuda:
            host = torch.empty_like(ratio, device="cpu", pin_memory=True)
            host.copy_(ratio, non_blocking=True)
            event = torch.cuda.current_stream(ratio.device).record_event()
            ratio = host
    except torch.OutOfMemoryError:
        return  # the program may have the memory for its own work
    _answers.append(_Answer(ratio, event, tell))


def error_on_first_rows(
    comparison: Comparison,
    kernels: Callable[..., Any],
    reference: Callable[..., Any],
    *given: Any,
    **named: Any,
) -> Tensor:
    """The largest error of the kernels on the first rows as a multiple of what is allowed, ().

    It is 0 if the results of the reference are not finite.
    """
    few, options = comparison.first_rows(*given, **named)
    found = comparison.run(kernels, *few, **options)
    expected = comparison.run(reference, *few, **options)
    gaps = comparison.gaps(found, expected, *few, **options)
    usual = torch.stack([gap.expected.isfinite().all() for gap in gaps]).all()
    return torch.where(usual, everything(gaps), 0.0)


def read_answers() -> None:
    """Tell of the comparisons that have failed, as far as their answers have arrived."""
    for answer in [*_answers] if _answers else ():
        if answer.event is None or answer.event.query():
            _answers.remove(answer)
            if not (ratio := float(answer.ratio)) <= MARGIN:
                answer.tell(ratio)


@atexit.register
def _tell_at_exit() -> None:
    with contextlib.suppress(RuntimeError):  # the device may have failed
        for answer in _answers:
            if answer.event is not None:
                answer.event.synchronize()
        read_answers()
