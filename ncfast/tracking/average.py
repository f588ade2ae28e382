"""The averages of `ncfast.tracking.stream`: one batch after another, each state in its place.

On the CPU the extension has them in C++ (``csrc/tracker/average.h``). The torch form here is used
elsewhere, and is the reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.ops import _raw
from ncfast.ops._raw import plain
from ncfast.ops.averages import CpuAverage
from ncfast.ops.states import Layout
from ncfast.tracking.stream import Stream

# metrics depend on ratios of the weights alone; a power of two scales them without rounding, and
# keeps old classes above the 1 that guards divisions by counts; what falls below is forgotten
_SCALE = 2.0**60
_FORGOTTEN = 1 / _SCALE
_CHUNK = 128  # batches a sweep
_PIECE = 16  # batches a product with the weights, whose cost grows with its square


def running_average(
    stream: Stream, layout: Layout, device: torch.device
) -> CpuAverage | TorchAverage:
    """What averages batches whose packed moments are on ``device``, by the best engine for it.

    Args:
        stream: a window or an exponential average.
        layout: of the batches' packed moments.
        device: where they are.
    """
    if _raw.extension is None or not plain(torch.empty(0, device=device)):
        return TorchAverage(stream, layout, device)
    length = stream.length if stream.kind == "window" else 0
    return CpuAverage(layout, length, stream.decay)


def _decays(decay: float, device: torch.device) -> Tensor:
    """(_PIECE, _PIECE + 1): weight of the past and of each batch of a piece in each average."""
    index = torch.arange(_PIECE + 1, device=device)
    age = index[1:].unsqueeze(1) - index
    weight = torch.pow(decay, age.clamp(min=0).to(torch.float64))
    return torch.where(age >= 0, weight, 0.0)


class TorchAverage:
    """A running average of batches, by sums over blocks of them; see `running_average`.

    Attributes:
        layout: of the averages, whose counts are weights.
    """

    def __init__(self, stream: Stream, layout: Layout, device: torch.device) -> None:
        self._stream, self._layout = stream, layout
        self.layout = layout._replace(integer_counts=False)
        k, d = layout.classes, layout.dim
        # additive rows: counts, counts times means, squares, degrees of freedom, sum of norms,
        # largest norm, one; first those of the past
        self._columns = [k, k * d, k, k, 1, 1, 1]
        self._past = 1 if stream.kind == "ema" else stream.length - 1
        shape = (self._past + _CHUNK, sum(self._columns))
        self._rows = torch.zeros(shape, dtype=torch.float64, device=device)
        self._weights = _decays(stream.decay, device)

    def update(self, states: Tensor) -> Tensor:
        """Overwrite each of the next batches by the average that ends with it.

        A batch that is not finite gives NaN, and leaves no trace in the average.

        Args:
            states: (n, size) packed moments, oldest first.

        Returns:
            The same tensor, whose layout is `layout` now.
        """
        for chunk in states.split(_CHUNK):
            self._sweep(chunk)
        return states

    def _sweep(self, states: Tensor) -> None:
        rows = self._rows[: self._past + len(states)]
        unusable = torch.isfinite(states[:, -2:]).all(1, keepdim=True).logical_not()
        # an accelerator masks without asking
        masks = states.device.type != "cpu" or bool(unusable.any())
        self._fill(states, rows[self._past :])
        if masks:
            rows[self._past :].masked_fill_(unusable, 0.0)
        averaged = self._decayed(rows) if self._stream.kind == "ema" else self._within(rows)
        self._pack(*averaged, states)
        if masks:
            states.masked_fill_(unusable, torch.nan)

    def _fill(self, states: Tensor, rows: Tensor) -> None:
        """Rows whose weighted sums make up the average: nothing in them cancels."""
        counts, means, within, norm_sum, norm_max = self._layout.split(states)
        number, total, squares, freedom, norms, largest, one = rows.split(self._columns, 1)
        number.copy_(counts)
        torch.mul(number.unsqueeze(-1), means, out=total.unflatten(1, means.shape[1:]))
        squares.copy_(within)
        freedom.copy_((number - 1).clamp_(min=0))
        norms.copy_(norm_sum.unsqueeze(1))
        largest.copy_(norm_max.unsqueeze(1))
        one.fill_(1)

    def _decayed(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over rows 0..i + 1 with weights decay^age, and the average largest norm."""
        number = len(rows) - 1
        sums = torch.empty_like(rows[1:])
        for start in range(0, number, _PIECE):
            size = min(_PIECE, number - start)
            piece = rows[start : start + size + 1]
            torch.mm(self._weights[:size, : size + 1], piece, out=sums[start : start + size])
            rows[start + size] = sums[start + size - 1]  # the past of the next piece
        self._rows[0] = rows[number]
        return sums, sums[:, -2] / sums[:, -1]

    def _within(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the window that ends at each row, and the largest norm in it."""
        length, past = self._stream.length, self._past
        index = torch.arange(len(rows), device=rows.device)
        age = index[past:].unsqueeze(1) - index
        sums = ((age >= 0) & (age < length)).to(torch.float64) @ rows
        largest = rows[:, -2].unfold(0, length, 1).amax(1)
        self._rows[:past] = rows[len(rows) - past :].clone()
        return sums, largest

    def _pack(self, sums: Tensor, largest: Tensor, out: Tensor) -> None:
        weight, total, squares, freedom, norm_sum, *_ = sums.split(self._columns, 1)
        weights, means, within, norm_sums, norm_max = self.layout.split(out)
        pooled = squares.sum(1, keepdim=True) / freedom.sum(1, keepdim=True)
        variance = torch.where(freedom > _FORGOTTEN, squares / freedom, pooled)
        present = weight > _FORGOTTEN
        weights.copy_(torch.where(present, weight * _SCALE, 0.0))
        share = torch.where(present, weight, 1.0).reciprocal_().unsqueeze(-1)
        torch.mul(total.unflatten(1, means.shape[1:]), share, out=means)
        within.copy_(torch.where(present, weights * variance, 0.0))
        torch.mul(norm_sum.squeeze(1), _SCALE, out=norm_sums)
        norm_max.copy_(largest)
