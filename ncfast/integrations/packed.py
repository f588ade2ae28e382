"""The sums of an `ncfast.Accumulator` as one float64 vector, the state of a torchmetrics metric.

torchmetrics stores states as tensors and adds them with a function of a stack of them. The parts of
the vector are contiguous, so that a batch is merged into it in place.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ncfast._saved import check_not_negative, check_sums
from ncfast._surroundings import updatable
from ncfast.accumulator.stream import Flags, StreamState
from ncfast.moments import ClassMoments

_KEEPS_ALL = 0.5  # in place of an ignore_index where there is none


class Layout(NamedTuple):
    """The parts of a vector.

    Attributes:
        num_classes: K.
        dim: D.
        scatter: whether the (D, D) scatter matrix is at its end.
        ignore_index: stored too, because metrics that leave out other rows share no state.
    """

    num_classes: int
    dim: int
    scatter: bool
    ignore_index: int | None

    @property
    def sizes(self) -> list[int]:
        """Lengths of: moments, moments from outside, (ignored, ignore_index), scatter."""
        scatter = self.dim**2 if self.scatter else 0
        return [_length(self.num_classes, self.dim), _length(1, self.dim), 2, scatter]


@updatable
def empty(layout: Layout) -> Tensor:
    """The vector of a state without rows."""
    vector = torch.zeros(sum(layout.sizes), dtype=torch.float64)
    ignore = layout.ignore_index
    vector.split(layout.sizes)[2][1] = _KEEPS_ALL if ignore is None else ignore
    return vector


def opened(vector: Tensor, layout: Layout, *, flags: Flags | None = None) -> StreamState:
    """The state in a vector: views of it, but for the counts, which `close` writes back."""
    inside, outside, ignored, scatter = vector.split(layout.sizes)
    return StreamState(
        _moments(inside, layout.num_classes, layout.dim),
        _moments(outside, 1, layout.dim),
        scatter.view(layout.dim, layout.dim) if layout.scatter else None,
        ignored[0].to(torch.int64),
        Flags() if flags is None else flags,
    )


def check(vector: Tensor, layout: Layout, name: str) -> None:
    """Raise ValueError if a vector that is to be loaded holds values that no rows give.

    Args:
        vector: of this layout.
        layout: its parts.
        name: of the entry that holds it, for the message.
    """
    inside, outside, ignored, scatter = vector.split(layout.sizes)
    for part, number in ((inside, layout.num_classes), (outside, 1)):
        norms, counts, squares, means = part.split([2, number, number, number * layout.dim])
        parts = {"counts": counts, "means": means, "within_ss": squares}
        parts |= {"norm_sum": norms[0], "norm_max": norms[1]}
        check_sums({f"{name}.{key}": value for key, value in parts.items()}, f"{name}.")
    check_not_negative(f"{name}.ignored", ignored[0])
    if layout.scatter:
        diagonal = scatter.view(layout.dim, layout.dim).diagonal()
        check_not_negative(f"{name}.scatter", diagonal)


def close(state: StreamState, vector: Tensor, layout: Layout) -> None:
    """Write the counts of a state that `opened` returned into its vector."""
    inside, outside, ignored, _ = vector.split(layout.sizes)
    inside[2 : 2 + layout.num_classes] = state.moments.counts
    outside[2:3] = state.outside.counts
    ignored[0] = state.ignored


@updatable
def packed(state: StreamState, layout: Layout) -> Tensor:
    """The vector of any state of this layout."""
    vector = empty(layout).to(state.device)
    inside, outside, ignored, scatter = vector.split(layout.sizes)
    _write(inside, state.moments)
    _write(outside, state.outside)
    ignored[0] = state.ignored
    if state.scatter is not None:
        scatter.copy_(state.scatter.flatten())
    return vector


@updatable
def merged(vectors: Tensor, layout: Layout) -> Tensor:
    """The vector of the rows of all vectors (W, length), merged in their order (Chan)."""
    first, *rest = (opened(vector, layout) for vector in vectors)
    for state in rest:
        first = first.merge(state)
    return packed(first, layout)


def of_first_release(vector: Tensor, layout: Layout) -> Tensor | None:
    """The vector of a state saved by version 0.1; None where it does not fit.

    That state holds the moments alone: norm_sum, norm_max, and for each class its count, its sum of
    squares and its mean.
    """
    if layout.scatter or len(vector) != layout.sizes[0]:
        return None
    found = empty(layout).to(vector.device)
    norms, rows = vector.double().split([2, len(vector) - 2])
    counts, squares, means = rows.view(layout.num_classes, -1).split([1, 1, layout.dim], 1)
    counts = counts.squeeze(1).to(torch.int64)
    moments = ClassMoments(counts, means, squares.squeeze(1), *norms)
    _write(found.split(layout.sizes)[0], moments)
    return found


def _length(num_classes: int, dim: int) -> int:
    return 2 + num_classes * (dim + 2)


def _moments(part: Tensor, num_classes: int, dim: int) -> ClassMoments:
    norms, counts, squares, means = part.split([2, num_classes, num_classes, num_classes * dim])
    return ClassMoments(
        counts.to(torch.int64), means.view(num_classes, dim), squares, norms[0], norms[1]
    )


def _write(part: Tensor, moments: ClassMoments) -> None:
    norms = torch.stack([moments.norm_sum, moments.norm_max])
    counts = moments.counts.to(torch.float64)
    torch.cat([norms, counts, moments.within_ss, moments.means.flatten()], out=part)
