"""The moments of the last batches and the norms of the weights, until a block is evaluated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ncfast import _validate
from ncfast.moments import class_moments
from ncfast.ops import _raw, select
from ncfast.ops.moments import cpu as cpu_moments
from ncfast.ops.states import Layout, RowWriter, pack
from ncfast.ops.weight_norm import norm_writer
from ncfast.tracking.averaging import Stream, running_average
from ncfast.tracking.keys import WEIGHT_NORM
from ncfast.tracking.records import Table
from ncfast.tracking.shutdown import held_back

_ROWS = 128
_BYTES = 1 << 25  # of one ring; large states are evaluated more often instead


class MomentsRing:
    """Packed moments of the batches of one layer that are not evaluated yet.

    `push` reads nothing on the host. On the CPU the extension writes a row in place; `quick`, where
    there is one, does all of an ordinary push in one call. Elsewhere a row is one concatenation and
    one copy to a position that is kept on the device, so a CUDA graph that holds a push writes the
    next row at each replay.

    Args:
        prefix: first part of the keys, such as "train".
        ids: metrics to evaluate.
        layout: of the packed moments.
        device: of the features.
        stream: how batches are averaged.
    """

    def __init__(
        self,
        prefix: str,
        ids: Sequence[str],
        layout: Layout,
        device: torch.device,
        stream: Stream,
    ) -> None:
        self.prefix, self.layout, self.device = prefix, layout, device
        self.keys = [f"{prefix}/{id_}" for id_ in ids]
        self.capacity = max(1, min(_ROWS, _BYTES // (8 * layout.size)))
        self.steps: list[int] = []  # one for each full row
        self.captured = False  # a CUDA graph holds a push
        shape = (self.capacity, layout.size)
        self.states = torch.zeros(shape, dtype=torch.float64, device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._averaged = 0  # leading rows that hold averages already
        averages = stream.kind != "batch"
        self._average = running_average(stream, layout, device) if averages else None
        fast = _raw.extension is not None and type(self.states) is Tensor and device.type == "cpu"
        self._rows = RowWriter(self.states, layout) if fast else None
        self.quick = self._rows.quick(self.steps) if self._rows is not None else None

    @property
    def number(self) -> int:
        """Rows that are full."""
        return len(self.steps)

    @property
    def full(self) -> bool:
        """Whether a block must be taken before the next push."""
        return self.number >= self.capacity

    def push(self, step: int, feats: Tensor, labels: Tensor) -> None:
        """Measure a batch into the next row.

        Args:
            step: of the batch.
            feats: (N, D), checked by the caller.
            labels: (N,), on the same device.

        Raises:
            ValueError: a label is out of range, where the labels are on the CPU.
        """
        if self._rows is None:
            self._place(self._packed(feats, labels))
        elif select("auto", feats) is cpu_moments and self._rows.write(self.number, feats, labels):
            if self._rows.is_nan(self.number):  # a label out of range, unless it was a feature
                _validate.check_label_values(labels, self.layout.classes)
        else:
            self.states[self.number] = self._packed(feats, labels)
        if _capturing(self.device):
            self.captured = True
        else:
            self.steps.append(step)

    def _place(self, state: Tensor) -> None:
        if _capturing(self.device):
            self.states.index_copy_(0, self._position, state.unsqueeze(0))
            self._position.add_(1)
        else:  # by the host's count: a push that an exception cut in two leaves no gap
            self.states[self.number] = state
            self._position.fill_(self.number + 1)

    def replayed(self, step: int) -> None:
        """Count a push that a CUDA graph has made."""
        self.steps.append(step)

    def _packed(self, feats: Tensor, labels: Tensor) -> Tensor:
        return pack(class_moments(feats, labels, num_classes=self.layout.classes))

    def rows(self) -> tuple[list[int], Tensor]:
        """Steps and packed moments of all log points since the last `clear`, oldest first."""
        return self.steps[:], self.states[: self.number]

    def clear(self) -> None:
        """Begin with the first row again."""
        del self.steps[:]  # the same list stays: it is known elsewhere
        self._averaged = 0
        self._position.zero_()

    def averaged(self, states: Tensor) -> tuple[Tensor, Layout]:
        """What to evaluate for the batches of `rows`, which it may overwrite; its layout.

        A second call before `clear` averages nothing twice.
        """
        if self._average is None:
            return states, self.layout
        if self._averaged < len(states):
            with held_back():
                self._average.update(states[self._averaged :])
                self._averaged = len(states)
        return states, self._average.layout


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


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
