"""Gathers vectors of all ranks after checking that every rank makes the same call.

With gloo, ranks that send different numbers of bytes crash. Every collective therefore begins with
a frame whose length all ranks know. The frame holds a header, which describes the call, and as much
of the vector as the last agreed call had. The rest of a longer vector follows after all headers
have been found equal.
"""

from __future__ import annotations

import weakref
import zlib
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

HEADER = 512  # bytes: a checksum of call, shapes and size, then the call and its shapes as text
_CALL = 256
ROOM = 1 << 20  # largest part of a vector in a frame, in bytes
_kept: list[dist.Work] = []  # the last collective's, see `finish`
_rooms: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # in float64 values


class RanksDiffer(ValueError):
    """The ranks do not make the same call.

    Attributes:
        calls: the call of each rank.
        shapes: the shapes that each rank sends.
    """

    def __init__(self, calls: list[str], shapes: list[str]) -> None:
        super().__init__(by_rank([f"{c} {s}" for c, s in zip(calls, shapes, strict=True)]))
        self.calls, self.shapes = calls, shapes


def check_initialised(call: str) -> None:
    """Check that there is a process group, for ``call``.

    Raises:
        RuntimeError: torch.distributed is not initialised.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            f"Expected torch.distributed to be initialised before {call}. "
            "Call torch.distributed.init_process_group first; a single process needs no reduce."
        )


def gather(
    own: Tensor, call: str, shapes: str, group: dist.ProcessGroup | None, *, check: bool = False
) -> Tensor:
    """The vectors of all ranks, (W, n).

    On an accelerator the host does not wait for a vector that fits into the frame. If the headers
    differ, the result is then NaN instead of an error, unless ``check`` is set.

    Args:
        own: (n,) float64, the vector of this rank.
        call: a name for this call.
        shapes: the shapes that ``own`` consists of, as text.
        group: the process group; None is the default group.
        check: always wait for the headers and compare them.

    Raises:
        RanksDiffer: the headers of the ranks differ; every rank raises it.
    """
    key = group or dist.group.WORLD
    room, size = _rooms.get(key, 0), own.numel()
    header = _header(call, shapes, size).to(own.device)
    padding = own.new_zeros(max(0, room - size))
    frames = all_gather(torch.cat([header, own[:room], padding]), group)
    headers, first = frames[:, : HEADER // 8], frames[:, HEADER // 8 :]
    if own.device.type != "cpu" and size <= room and not check:
        same = (headers.view(torch.int64) == headers[0].view(torch.int64)).all()
        return torch.where(same, first[:, :size], torch.nan)
    _compare(headers)
    _rooms[key] = min(size, ROOM // 8)
    if size <= room:
        return first[:, :size]
    return torch.cat([first, all_gather(own[room:].contiguous(), group)], 1)


def by_rank(texts: list[str]) -> str:
    """The different texts, each with the ranks that have it."""
    ranks: dict[str, list[str]] = {}
    for rank, text in enumerate(texts):
        ranks.setdefault(text, []).append(str(rank))
    return "; ".join(
        f"{text} on rank{'s' * (len(on) > 1)} {', '.join(on[:8])}{', ...' * (len(on) > 8)}"
        for text, on in ranks.items()
    )


def _header(call: str, shapes: str, size: int) -> Tensor:
    check = zlib.crc32(f"{call}\n{shapes}\n{size}".encode())
    said = call.encode()[:_CALL].ljust(_CALL, b"\0") + shapes.encode()[: HEADER - _CALL - 8]
    packed = check.to_bytes(8, "little") + said.ljust(HEADER - 8, b"\0")
    return torch.frombuffer(bytearray(packed), dtype=torch.float64)


def _compare(headers: Tensor) -> None:
    rows = [bytes(row) for row in headers.contiguous().cpu().view(torch.uint8).tolist()]
    if len(set(rows)) > 1:
        raise RanksDiffer(
            [_text(row[8 : 8 + _CALL]) for row in rows], [_text(row[8 + _CALL :]) for row in rows]
        )


def _text(packed: bytes) -> str:
    return packed.rstrip(b"\0").decode(errors="replace")


def all_gather(own: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The vectors (n,) of all ranks as rows; their lengths are not checked and must be equal."""
    world = dist.get_world_size(group)
    gathered = own.new_empty(world * own.numel())
    # PyTorch 2.13 renamed the function and warns about the old name
    collective = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    finish(collective(gathered, own, group=group, async_op=True), gathered)
    return gathered.view(world, -1)


def finish(work: dist.Work | None, received: Tensor) -> None:
    """Wait for a collective, and keep its work until the next one if ``received`` is small.

    A thread of gloo drops the work a moment after the wait has ended. If it is the last to do so,
    it also drops the tensors, for which it takes Python's lock. If Python has begun to end by then,
    the process aborts ("terminate called without an active exception"). A work that is kept here
    is dropped by the main thread. A large one is not kept, as it holds its tensors in memory.
    """
    if work is None:  # this process is not in the group
        return
    work.wait()
    if received.device.type == "cpu":
        _kept[:] = [work] if received.nbytes <= 8 * ROOM else []


def as_group(group: Any) -> tuple[bool, dist.ProcessGroup | None]:
    """Whether to reduce, and the process group; None is the default group.

    Args:
        group: None (no reduction), "auto" (over all ranks, if there are several) or a group.

    Raises:
        ValueError: it is none of these.
    """
    if group is None:
        return False, None
    if group == "auto":
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        return several, None
    if dist.is_available() and isinstance(group, dist.ProcessGroup):
        return True, group
    raise ValueError(
        f"Expected argument `group` to be None, 'auto' or a process group but got {group!r}."
    )
