"""Combines class moments over all ranks, with one collective, or two if the states are large."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from ncfast import _ranks
from ncfast.moments import ClassMoments

# From this size of a rank's packed state, the second collective costs less than it saves.
EXCHANGE_BYTES = 1 << 20


def all_reduce_many(
    moments: Sequence[ClassMoments],
    group: dist.ProcessGroup | None = None,
    *,
    call: str = "class moments",
) -> list[ClassMoments]:
    """Each of ``moments`` over the samples of all ranks, with the same bits on every rank.

    Chan's merge is not a sum, and raw sums, which could be added, would cancel on collapsed
    features. The ranks therefore exchange states and merge them in rank order. Small states are
    gathered in one collective, in which a rank receives the states of all others. With W > 2 ranks
    and at least 1 MiB of state there are two collectives: rank r receives all states of the r-th
    share of the classes and merges them, then the results are gathered. A rank then receives
    2 (W - 1) / W states instead of W - 1. Both forms make the same merges in the same order.

    Every call begins with a short header, which the ranks compare before they send more. The header
    is sent together with the states if these are no longer than those of the last call. The rest
    of longer states takes one more collective.

    Args:
        moments: the moments of one rank, for example one entry per layer. K and D may differ
            between entries. Every rank must pass the same number of entries with the same K and D;
            a rank without samples passes `ClassMoments.empty`.
        group: the process group; None is the default group.
        call: a name for this call, used in errors; the same on every rank.

    Returns:
        The merged moments, in the order of ``moments`` and on the same devices, without a graph.

    Raises:
        RuntimeError: torch.distributed is not initialised, or a rank died or did not call within
            the time-out of the process group.
        ValueError: the ranks make different calls or differ in K and D; every rank raises it. On
            an accelerator the host does not wait for the header of a call as long as the last one.
            The result is NaN instead of an error then.

    Example:
        >>> import ncfast
        >>> all_reduce_many([ncfast.ClassMoments.empty(5, 6)])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        RuntimeError: Expected torch.distributed to be initialised before ...
    """
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            "Expected torch.distributed to be initialised before ClassMoments.all_reduce. "
            "Call torch.distributed.init_process_group first; a single process needs no reduce."
        )
    world = dist.get_world_size(group)
    moments = [part.detach() for part in moments]
    try:
        size = 8 * sum(part.num_classes * (part.dim + 2) for part in moments)
        reduce = _exchange if world > 2 and size >= EXCHANGE_BYTES else _gather
        return reduce(moments, world, group, call)
    except _ranks.RanksDiffer as error:
        raise ValueError(_difference(error)) from None
    except RuntimeError as error:
        raise RuntimeError(
            f"The {world} ranks could not combine their class moments: a rank died, left the loop "
            "early or did not come within the time-out of the process group. Every rank must make "
            "the same calls; one without samples passes ClassMoments.empty. What was logged before "
            f"is kept. This rank came with {call}. The backend said: {error}"
        ) from error


def pack(moments: ClassMoments) -> Tensor:
    """The moments as one float64 vector: two norms, then one row per class.

    Counts are exact up to 2^53.

    Returns:
        (2 + K (D + 2),): norm_sum, norm_max, and for each class its count, within_ss and mean.
    """
    return torch.cat([_norms(moments), _rows(moments).view(-1)])


def unpack(state: Tensor, num_classes: int, dim: int) -> ClassMoments:
    """The moments in a vector made by `pack`. Everything except the counts is a view of it."""
    return _from_rows(state[2:].view(num_classes, dim + 2), state[0], state[1])


def merge_packed(states: Tensor, num_classes: int, dim: int) -> Tensor:
    """Merge packed states (W, 2 + K (D + 2)) in their order into one, (2 + K (D + 2),)."""
    merged, *rest = (unpack(state, num_classes, dim) for state in states)
    for part in rest:
        merged = merged.merge(part)
    return pack(merged)


def _difference(error: _ranks.RanksDiffer) -> str:
    if len(set(error.calls)) > 1:
        return (
            "Expected every rank to make the same calls, one for each step, but got "
            f"{_ranks.by_rank(error.calls)}. Let all ranks take the same number of steps, with "
            "drop_last=True in their loaders or up to the shortest of their shards."
        )
    return (
        "Expected argument `moments` to have the same (K, D) on every rank but got "
        f"{_ranks.by_rank(error.shapes)}. Pass the same `num_classes` and layers everywhere, and "
        "ClassMoments.empty(K, D) where there is no sample."
    )


def _shapes(moments: Sequence[ClassMoments]) -> str:
    """The shapes as text; repeated shapes are counted: "(5, 6) x 128, (5, 8)"."""
    runs = itertools.groupby((part.num_classes, part.dim) for part in moments)
    lengths = [(shape, len(list(run))) for shape, run in runs]
    return ", ".join(f"{shape} x {n}" if n > 1 else f"{shape}" for shape, n in lengths)


def _gather(
    moments: Sequence[ClassMoments], world: int, group: dist.ProcessGroup | None, call: str = ""
) -> list[ClassMoments]:
    """Gather all states on all ranks; every rank merges all of them."""
    if moments:
        packed = torch.cat([pack(part) for part in moments])
    else:  # on a device that the group can reach
        device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
        packed = torch.empty(0, dtype=torch.float64, device=device)
    states = _ranks.gather(packed, call, _shapes(moments), group)
    return _merged(states, [(m.num_classes, m.dim) for m in moments]) if moments else []


def _exchange(
    moments: Sequence[ClassMoments], world: int, group: dist.ProcessGroup | None, call: str = ""
) -> list[ClassMoments]:
    """Send each share of the classes to one rank, which merges it; then gather the results."""
    nothing = moments[0].means.new_empty(0)
    _ranks.gather(nothing, call, _shapes(moments), group, check=True)
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
    columns = _ranks.all_gather(own, group).split([share * (d + 2) for share, d in shares], dim=1)
    return [
        _from_rows(c.reshape(-1, m.dim + 2)[: m.num_classes], part.norm_sum, part.norm_max)
        for c, m, part in zip(columns, moments, mine, strict=True)
    ]


def _merged(states: Tensor, shapes: Sequence[tuple[int, int]]) -> list[ClassMoments]:
    """Merge the ranks' rows (W, length), each of which holds the packed states of all moments."""
    columns = states.split([2 + k * (d + 2) for k, d in shapes], dim=1)
    merged = [merge_packed(column, k, d) for column, (k, d) in zip(columns, shapes, strict=True)]
    return [unpack(state, k, d) for state, (k, d) in zip(merged, shapes, strict=True)]


def _norms(moments: ClassMoments) -> Tensor:
    return torch.stack([moments.norm_sum, moments.norm_max])


def _rows(moments: ClassMoments) -> Tensor:
    scalars = torch.stack([moments.counts.to(torch.float64), moments.within_ss], dim=1)
    return torch.cat([scalars, moments.means], dim=1)


def _from_rows(rows: Tensor, norm_sum: Tensor, norm_max: Tensor) -> ClassMoments:
    counts = rows[:, 0].to(torch.int64)
    return ClassMoments(counts, rows[:, 2:], rows[:, 1], norm_sum, norm_max)
