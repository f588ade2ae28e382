"""Class moments over all ranks: one packed collective, or two when the states are large."""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from ncfast.moments import ClassMoments

# From this many packed bytes a rank on, the second collective costs less than what it saves.
EXCHANGE_BYTES = 1 << 20
_TEXT = 276  # bytes of the shapes in words, the last 20 their checksum
Shapes = tuple[tuple[int, int], ...]
_agreed: weakref.WeakKeyDictionary[Any, set[Shapes]] = weakref.WeakKeyDictionary()


def all_reduce_many(
    moments: Sequence[ClassMoments], group: dist.ProcessGroup | None = None
) -> list[ClassMoments]:
    """Every one of ``moments`` over all ranks, packed together; the same bits on every rank.

    Chan's merge is no plain sum, and sums that could be added would cancel on collapsed features.
    So states travel and are merged in rank order. Small ones are gathered in one collective: a rank
    receives the whole state of every other. With W > 2 ranks and at least 1 MiB of state, rank r
    gets all states of the r-th share of the classes, merges those, and the results are gathered:
    two collectives, but a rank receives 2 (W - 1) / W states instead of W - 1. Both are the same
    merges in the same order.

    Args:
        moments: one entry a layer, say; K and D may differ between entries. Every rank passes the
            same number of entries with the same K and D; a rank without samples takes part with
            `ClassMoments.empty`.
        group: the process group; None is the default one.

    Returns:
        The merged moments, in the order of the argument, on the devices they came from.

    Raises:
        RuntimeError: torch.distributed is not initialised; or a rank died or did not come within
            the time-out of the process group.
        ValueError: on every rank, K and D are not the same on all. Looked at when a group first
            reduces these K and D, by one small collective more.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            "Expected torch.distributed to be initialised before ClassMoments.all_reduce. "
            "Call torch.distributed.init_process_group first; a single process needs no reduce."
        )
    if not moments:
        return []
    world = dist.get_world_size(group)
    shapes = tuple((part.num_classes, part.dim) for part in moments)
    size = 8 * sum(part.num_classes * (part.dim + 2) for part in moments)
    reduce = _exchange if world > 2 and size >= EXCHANGE_BYTES else _gather
    try:
        found = _other_shapes(shapes, moments[0].means.device, world, group)
        if not found:
            return reduce(moments, world, group)
    except RuntimeError as error:
        raise RuntimeError(
            f"The {world} ranks could not combine their class moments: a rank died, left the loop "
            "early or did not come within the time-out of the process group. Every rank must make "
            "the same calls; one without samples passes ClassMoments.empty. What was logged before "
            f"is kept. The backend said: {error}"
        ) from error
    raise ValueError(
        f"Expected argument `moments` to have the same (K, D) on every rank but got {found}. Pass "
        "the same `num_classes` and layers everywhere, and ClassMoments.empty(K, D) where there is "
        "no sample."
    )


def pack(moments: ClassMoments) -> Tensor:
    """The moments as one float64 vector: two norms, then a row a class; counts exact up to 2^53.

    Returns:
        (2 + K (D + 2),): norm_sum, norm_max, and for each class its count, within_ss and mean.
    """
    return torch.cat([_norms(moments), _rows(moments).view(-1)])


def unpack(state: Tensor, num_classes: int, dim: int) -> ClassMoments:
    """The moments that `pack` made a vector of; shares memory with it where it can."""
    return _from_rows(state[2:].view(num_classes, dim + 2), state[0], state[1])


def merge_packed(states: Tensor, num_classes: int, dim: int) -> Tensor:
    """One packed state for the samples of several, (W, 2 + K (D + 2)), merged in their order."""
    merged, *rest = (unpack(state, num_classes, dim) for state in states)
    for part in rest:
        merged = merged.merge(part)
    return pack(merged)


def _other_shapes(
    shapes: Shapes, device: torch.device, world: int, group: dist.ProcessGroup | None
) -> str:
    """The shapes that the ranks hold, if they are not the same; nothing where they are."""
    known = _agreed.setdefault(group or dist.group.WORLD, set())
    if shapes in known:
        return ""
    # as text of a fixed length: the number of entries may differ too
    text = ", ".join(f"({k}, {d})" for k, d in shapes).encode()
    own = torch.zeros(_TEXT, dtype=torch.uint8)
    own[-20:] = torch.tensor(list(b"%20d" % zlib.crc32(text)), dtype=torch.uint8)
    own[: min(len(text), _TEXT - 20)] = torch.tensor(list(text[: _TEXT - 20]), dtype=torch.uint8)
    own = own.to(device)
    gathered = own.new_empty(world * _TEXT)
    _all_gather(gathered, own, group)
    rows = [bytes(row) for row in gathered.view(world, _TEXT).tolist()]
    if len(set(rows)) == 1:
        known.add(shapes)
        return ""
    return "; ".join(
        f"{row[: _TEXT - 20].rstrip(bytes(1)).decode()} on rank {rank}"
        for rank, row in enumerate(rows)
    )


def _gather(
    moments: Sequence[ClassMoments], world: int, group: dist.ProcessGroup | None
) -> list[ClassMoments]:
    """All states to all ranks; everyone merges everything."""
    packed = torch.cat([pack(part) for part in moments])
    gathered = packed.new_empty(world * packed.numel())
    _all_gather(gathered, packed, group)
    return _merged(gathered.view(world, -1), [(m.num_classes, m.dim) for m in moments])


def _exchange(
    moments: Sequence[ClassMoments], world: int, group: dist.ProcessGroup | None
) -> list[ClassMoments]:
    """All states of a share of the classes to one rank, which merges them; then a gather."""
    shares = [(-(-part.num_classes // world), part.dim) for part in moments]
    sent = torch.cat(
        [
            column
            for part, (share, _) in zip(moments, shares, strict=True)
            for column in (
                _norms(part).expand(world, 2),
                pad(_rows(part), (0, 0, 0, world * share - part.num_classes)).view(world, -1),
            )
        ],
        dim=1,
    )
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    mine = _merged(received, shares)
    own = torch.cat([_rows(part).view(-1) for part in mine])
    gathered = own.new_empty(world * own.numel())
    _all_gather(gathered, own, group)
    columns = gathered.view(world, -1).split([share * (d + 2) for share, d in shares], dim=1)
    return [
        _from_rows(c.reshape(-1, m.dim + 2)[: m.num_classes], part.norm_sum, part.norm_max)
        for c, m, part in zip(columns, moments, mine, strict=True)
    ]


def _merged(states: Tensor, shapes: Sequence[tuple[int, int]]) -> list[ClassMoments]:
    """Merge rows that hold the packed states of several moments, (W, length), in their order."""
    columns = states.split([2 + k * (d + 2) for k, d in shapes], dim=1)
    merged = [merge_packed(column, k, d) for column, (k, d) in zip(columns, shapes, strict=True)]
    return [unpack(state, k, d) for state, (k, d) in zip(merged, shapes, strict=True)]


def _all_gather(output: Tensor, own: Tensor, group: dist.ProcessGroup | None) -> None:
    # the name changed with PyTorch 2.13, which warns of the old one
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(output, own, group=group)


def _norms(moments: ClassMoments) -> Tensor:
    return torch.stack([moments.norm_sum, moments.norm_max])


def _rows(moments: ClassMoments) -> Tensor:
    scalars = torch.stack([moments.counts.to(torch.float64), moments.within_ss], dim=1)
    return torch.cat([scalars, moments.means], dim=1)


def _from_rows(rows: Tensor, norm_sum: Tensor, norm_max: Tensor) -> ClassMoments:
    counts = rows[:, 0].to(torch.int64)
    return ClassMoments(counts, rows[:, 2:], rows[:, 1], norm_sum, norm_max)
