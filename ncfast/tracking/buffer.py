"""Keeps the moments of the last batches, and the norms of the weights, until they are sent."""

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
from ncfast.tracking.averaging import Averaging, running_average
from ncfast.tracking.keys import WEIGHT_NORM
from ncfast.tracking.records import Table
from ncfast.tracking.shutdown import defer_signals

_ROWS = 128
_BYTES = 1 << 25  # most memory of a buffer: with large moments it has fewer rows


class MomentsBuffer:
    """Packed moments of the batches of one layer that are not evaluated yet.

    The buffer lies on the device of the features, and `push` reads nothing on the host. On the CPU
    the extension writes a row in place, and `fast_writer`, where there is one, does an ordinary
    push in a single call. On other devices a push copies a row to a position that is kept on the
    device: a CUDA graph that holds a push writes the next row at each replay.

    Args:
        prefix: the first part of the keys, such as "train".
        ids: the metrics to evaluate.
        layout: the layout of the packed moments.
        device: the device of the features.
        averaging: how batches are averaged.

    Attributes:
        steps: the step of each filled row.
        captured: whether a CUDA graph holds a push.
        fast_writer: the extension's writer of whole rows, or None.
    """

    def __init__(
        self,
        prefix: str,
        ids: Sequence[str],
        layout: Layout,
        device: torch.device,
        averaging: Averaging,
    ) -> None:
        self.prefix, self.layout, self.device = prefix, layout, device
        self.keys = [f"{prefix}/{id_}" for id_ in ids]
        self.capacity = max(1, min(_ROWS, _BYTES // (8 * layout.size)))
        self.steps: list[int] = []
        self.captured = False
        shape = (self.capacity, layout.size)
        self.states = torch.zeros(shape, dtype=torch.float64, device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._averaged = 0  # leading rows that hold averages already
        averages = averaging.kind != "batch"
        self._average = running_average(averaging, layout, device) if averages else None
        fast = _raw.extension is not None and type(self.states) is Tensor and device.type == "cpu"
        self._rows = RowWriter(self.states, layout) if fast else None
        self.fast_writer = self._rows.fast_writer(self.steps) if self._rows is not None else None

    @property
    def number(self) -> int:
        """The number of filled rows."""
        return len(self.steps)

    @property
    def full(self) -> bool:
        """Whether the rows must be sent before the next push."""
        return self.number >= self.capacity

    def push(self, step: int, feats: Tensor, labels: Tensor) -> None:
        """Write the moments of a batch to the next row.

        Args:
            step: the step of the batch.
            feats: (N, D) features, which the caller has checked.
            labels: (N,) class indices on the same device.

        Raises:
            ValueError: a label on the CPU is out of range.
        """
        if self._rows is None:
            self._store(self._packed(feats, labels))
        elif select("auto", feats) is cpu_moments and self._rows.write(self.number, feats, labels):
            if self._rows.is_nan(self.number):  # from a label out of range, or from a feature
                _validate.check_label_values(labels, self.layout.classes)
        else:
            self.states[self.number] = self._packed(feats, labels)
        if _capturing(self.device):
            self.captured = True
        else:
            self.steps.append(step)

    def _store(self, state: Tensor) -> None:
        if _capturing(self.device):
            self.states.index_copy_(0, self._position, state.unsqueeze(0))
            self._position.add_(1)
        else:  # at the host's count: a push that an exception interrupts leaves no empty row
            self.states[self.number] = state
            self._position.fill_(self.number + 1)

    def replayed(self, step: int) -> None:
        """Count the push of a CUDA graph that was replayed."""
        self.steps.append(step)

    def _packed(self, feats: Tensor, labels: Tensor) -> Tensor:
        return pack(class_moments(feats, labels, num_classes=self.layout.classes))

    def rows(self) -> tuple[list[int], Tensor]:
        """The steps and the packed moments of the filled rows, oldest first."""
        return self.steps[:], self.states[: self.number]

    def clear(self) -> None:
        """Start again with the first row."""
        del self.steps[:]  # the fast writer holds the same list
        self._averaged = 0
        self._position.zero_()

    def averaged(self, states: Tensor) -> tuple[Tensor, Layout]:
        """The states to evaluate, and their layout.

        An average overwrites the rows of ``states``. A second call before `clear` does not average
        them again.

        Args:
            states: the packed moments that `rows` returned.
        """
        if self._average is None:
            return states, self.layout
        if self._averaged < len(states):
            with defer_signals():
                self._average.update(states[self._averaged :])
                self._averaged = len(states)
        return states, self._average.layout


class NormBuffer:
    """Norms of the weights that the extension has measured and that are not sent yet.

    Each norm reads the parameters that the model has at that step.

    Attributes:
        steps: the step of each norm.
        writer: the extension's writer, which measures and stores a norm in one call, or None.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self._values = torch.zeros(_ROWS, dtype=torch.float64, device="cpu")
        self.writer = norm_writer(_raw.extension, self._values, self.steps)

    @property
    def full(self) -> bool:
        """Whether the norms must be sent before the next one."""
        return len(self.steps) >= _ROWS

    def push(self, step: int, model: nn.Module) -> bool:
        """Measure the norm at ``step``, once; False if the extension cannot, and torch must."""
        if self.steps and self.steps[-1] == step:
            return True
        return self.writer is not None and self.writer.push(step, model)

    def table(self) -> list[Table]:
        """The norms since the last `clear`: one table, or none."""
        if not self.steps:
            return []
        steps = self.steps[:]
        values = self._values[: len(steps)].unsqueeze(1).clone()  # later norms overwrite them
        return [Table([WEIGHT_NORM], steps, values)]

    def clear(self) -> None:
        """Forget the norms."""
        del self.steps[:]  # the writer holds the same list


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
