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
from ncfast.ops.states import Layout, pack

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
    _ranks.check_initialised("ClassMoments.all_reduce")
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
    return _merged(states, [Layout(m.num_classes, m.dim) for m in moments]) if moments else []


def _exchange(
    moments: Sequence[ClassMoments], world: int, group: dist.ProcessGroup | None, call: str = ""
) -> list[ClassMoments]:
    """Send each share of the classes to one rank, which merges it; then gather the results."""
    nothing = moments[0].means.new_empty(0)
    _ranks.gather(nothing, call, _shapes(moments), group, check=True)
    shares = [Layout(-(-part.num_classes // world), part.dim) for part in moments]
    sent = torch.cat([pack(_shares(part, world)) for part in moments], dim=1)
    received = torch.empty_like(sent)
    _ranks.finish(dist.all_to_all_single(received, sent, group=group, async_op=True), received)
    mine = _merged(received, shares)
    own = torch.cat([pack(part)[:-_NORMS] for part in mine])
    columns = _ranks.all_gather(own, group).split([share.size - _NORMS for share in shares], dim=1)
    return [
        _whole(rows, share, merged, part.num_classes)
        for rows, share, merged, part in zip(columns, shares, mine, moments, strict=True)
    ]


_NORMS = 2  # entries at the end of a packed state; every rank has merged those of all ranks


def _merged(states: Tensor, layouts: Sequence[Layout]) -> list[ClassMoments]:
    """Merge the ranks' rows (W, length), each of which holds the packed states of all moments."""
    found = []
    for layout, rows in zip(layouts, states.split([each.size for each in layouts], 1), strict=True):
        merged, *rest = (ClassMoments(*layout.split(row)) for row in rows)
        for part in rest:
            merged = merged.merge(part)
        found.append(merged)
    return found


def _shares(moments: ClassMoments, world: int) -> ClassMoments:
    """The classes in equal shares, (W, share), the last of which end with empty classes."""
    share = -(-moments.num_classes // world)
    missing = world * share - moments.num_classes
    return ClassMoments(
        pad(moments.counts, (0, missing)).view(world, share),
        pad(moments.means, (0, 0, 0, missing)).view(world, share, -1),
        pad(moments.within_ss, (0, missing)).view(world, share),
        moments.norm_sum.expand(world),
        moments.norm_max.expand(world),
    )


def _whole(rows: Tensor, share: Layout, merged: ClassMoments, num_classes: int) -> ClassMoments:
    """The moments of all classes, from packed shares (W, share) without their norms."""
    counts, means, within, *_ = share.split(pad(rows, (0, _NORMS)))
    return ClassMoments(
        counts.flatten()[:num_classes],
        means.flatten(0, 1)[:num_classes],
        within.flatten()[:num_classes],
        merged.norm_sum,
        merged.norm_max,
    )
