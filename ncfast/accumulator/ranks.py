"""Combines the states and second looks of an `ncfast.Accumulator` over all ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ncfast import _ranks
from ncfast.accumulator.stream import Flags, StreamState
from ncfast.distributed import EXCHANGE_BYTES, all_reduce_many
from ncfast.metrics.second_look import NO_SCORE, SecondLook

_CALL = "Accumulator.all_reduce"
Group = dist.ProcessGroup | None


class Facts(NamedTuple):
    """The facts that ranks exchange before they send states."""

    dim: int  # D, or 0 before the first batch
    outside: int  # 1 if rows from outside the distribution were seen
    looked: int  # 1 if there is a second look
    scores: int  # rows with a NECO score
    outside_scores: int


@contextmanager
def reported(group: Group) -> Iterator[int]:
    """Yield the number of ranks; give errors about missing or different ranks a remedy.

    Raises:
        RuntimeError: torch.distributed is not initialised, or a rank is missing.
        ValueError: the ranks differ.
    """
    _ranks.check_initialised(_CALL)
    world = dist.get_world_size(group)
    try:
        yield world
    except _ranks.RanksDiffer as error:
        raise ValueError(
            f"Expected every rank to call {_CALL} with the same num_classes, dim and metrics but "
            f"got {error}."
        ) from None
    except RuntimeError as error:
        raise RuntimeError(
            f"The {world} ranks could not combine their accumulators: a rank died, left the loop "
            "early or did not come within the time-out of the process group. Every rank must call "
            f"{_CALL}, with or without rows. The backend said: {error}"
        ) from error


def device_of(group: Group) -> torch.device:
    """A device whose tensors the group can send."""
    return torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")


def exchange(facts: Facts, settings: str, group: Group, device: torch.device) -> list[Facts]:
    """The facts of every rank, once the ranks have been found to have the same settings."""
    own = torch.tensor(facts, dtype=torch.float64, device=device)
    rows = _ranks.gather(own, _CALL, settings, group, check=True)
    return [Facts(*(int(value) for value in row)) for row in rows.tolist()]


def common_dim(ranks: list[Facts]) -> int:
    """D, which the ranks with a batch have in common; 0 if there is none.

    Raises:
        ValueError: they differ; every rank raises it.
    """
    dims = {rank.dim for rank in ranks if rank.dim}
    if len(dims) > 1:
        found = _ranks.by_rank([f"D = {rank.dim or 'unknown'}" for rank in ranks])
        raise ValueError(f"Expected features of the same width on every rank but got {found}.")
    return dims.pop() if dims else 0


def reduce_state(state: StreamState, settings: str, group: Group, *, agreed: bool) -> StreamState:
    """The state of all ranks' rows, merged in rank order; one collective for small states.

    With more than two ranks and at least 1 MiB of moments, `all_reduce_many` merges the moments,
    which sends less, and another collective adds up the rest.

    Args:
        state: of the rows of this rank.
        settings: what must be equal on all ranks, as text.
        group: the process group.
        agreed: whether the ranks have compared the settings and D already.
    """
    moments = state.moments
    size = 8 * moments.num_classes * (moments.dim + 2)
    if dist.get_world_size(group) > 2 and size >= EXCHANGE_BYTES:
        return _reduce_large(state, settings, group)
    if agreed:
        states = _ranks.all_gather(state.pack(), group)
    else:
        states = _ranks.gather(state.pack(), _CALL, f"D = {moments.dim}, {settings}", group)
    first, *rest = states
    merged = state.unpack(first)
    for packed in rest:
        merged = merged.merge(state.unpack(packed))
    return replace(merged, flags=_of_all(state.flags))


def _reduce_large(state: StreamState, settings: str, group: Group) -> StreamState:
    parts = [state.moments, state.outside]
    moments, outside = all_reduce_many(parts, group, call=f"{_CALL} {settings}")
    rest = [state.ignored.view(1).to(torch.float64)]
    if state.scatter is not None:
        # around the same means, those of all ranks, the scatters add up
        weights = state.moments.counts.to(torch.float64).sqrt().unsqueeze(1)
        shift = (state.moments.means - moments.means) * weights
        rest.append(torch.addmm(state.scatter, shift.T, shift).flatten())
    ignored, scatter = _sum_of_ranks(torch.cat(rest), group).tensor_split([1])
    return StreamState(
        moments,
        outside,
        None if state.scatter is None else scatter.view_as(state.scatter),
        ignored.to(torch.int64).squeeze(0),
        _of_all(state.flags),
    )


def _of_all(flags: Flags) -> Flags:
    return flags._replace(rows=True, shared=True)


def reduce_look(look: SecondLook, ranks: list[Facts], group: Group) -> None:
    """Put the sums and scores of all ranks into ``look``; one collective."""
    lengths = [max(rank.scores for rank in ranks), max(rank.outside_scores for rank in ranks)]
    own = [look.packed]
    for batches, length in zip((look.scores, look.outside_scores), lengths, strict=True):
        flat = torch.cat([look.packed.new_zeros(0), *batches])
        own.append(torch.nn.functional.pad(flat, (0, length - len(flat)), value=NO_SCORE))
    gathered = _ranks.all_gather(torch.cat(own), group)
    packed, scores, outside = gathered.split([len(look.packed), *lengths], dim=1)
    look.packed, look.shared = _in_order(packed), True
    look.scores, look.outside_scores = (
        [part.flatten()] if part.numel() else [] for part in (scores, outside)
    )


def _sum_of_ranks(own: Tensor, group: Group) -> Tensor:
    return _in_order(_ranks.all_gather(own, group))


def _in_order(rows: Tensor) -> Tensor:
    """The sum of the rows, added in their order, so that every rank has the same bits."""
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total
