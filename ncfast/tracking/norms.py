"""The norms of the weights at the last log points, a column of the records."""

from __future__ import annotations

import torch
from torch import nn

from ncfast.ops import _raw
from ncfast.ops.weight_norm import norm_writer
from ncfast.tracking.block import Table
from ncfast.tracking.selection import WEIGHT_NORM

_ROWS = 128


class NormColumn:
    """Norms that the extension has measured and that are not written yet.

    `writer` puts the next one into place, all of it in one call; None where the extension cannot.
    It looks at the parameters afresh each time: they may have been replaced since.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []  # one for each norm
        self._values = torch.zeros(_ROWS, dtype=torch.float64, device="cpu")
        self.writer = norm_writer(_raw.extension, self._values, self.steps)

    @property
    def full(self) -> bool:
        """Whether a block must be taken before the next norm."""
        return len(self.steps) >= _ROWS

    def push(self, step: int, model: nn.Module) -> bool:
        """Measure the norm at ``step``, once; False, and nothing done, if torch should instead."""
        if self.steps and self.steps[-1] == step:
            return True
        return self.writer is not None and self.writer.push(step, model)

    def table(self) -> list[Table]:
        """What there is since the last `clear`: a table, or none."""
        if not self.steps:
            return []
        steps = self.steps[:]
        values = self._values[: len(steps)].unsqueeze(1).clone()  # the memory is used again
        return [Table([WEIGHT_NORM], steps, values)]

    def clear(self) -> None:
        """Begin anew."""
        del self.steps[:]  # the same list stays: the writer knows it
