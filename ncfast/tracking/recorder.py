"""Collects the measurements of each step, and sends them to the sinks in blocks."""

from __future__ import annotations

import math
import os
import threading
import time
import warnings
import weakref
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ncfast._warnings import user_level
from ncfast.ops import _raw
from ncfast.ops.weight_norm import norm_writer
from ncfast.tracking.averaging import Averaging
from ncfast.tracking.buffer import ROWS
from ncfast.tracking.buffers import Buffers, advance_averages, merge_batches, tables_of
from ncfast.tracking.keys import COST, WEIGHT_NORM, StepMetrics
from ncfast.tracking.records import LogPoint, RecordBatch, Table
from ncfast.tracking.reduction import Ranks
from ncfast.tracking.shutdown import defer_signals
from ncfast.tracking.sinks import Sink
from ncfast.tracking.writer import SinkWriters

_POINTS = 128  # most log points of a block


class Recorder:
    """Holds the log points and batches that are not sent yet, and sends them to the sinks.

    A block is a group of records that are evaluated and sent together. The recorder knows neither
    the model nor the tracker, so it can be closed after both are gone. It forgets a measurement
    only when the writers have it: if an exception comes before that, such as a KeyboardInterrupt,
    the next call sends it. A thread that adds to the records, or sends them, holds `lock`.

    Args:
        metrics: the metrics of a step.
        num_classes: K.
        averaging: how batches are averaged.
        sinks: where records go.
        header: the header for the sinks.
        flush_seconds: the greatest age of a block; the next step then sends it.
        sink_timeout: seconds that a call of a sink may take.
        on_sink_error: "warn" once and go on without the sink, or "raise".
        log_cost: whether the last record of a block holds `COST`.
        ranks: the ranks that merge their measurements, or None.
        start_step: the step at which the first block starts.
        ignore_index: rows with this label are left out; None leaves out none.

    Attributes:
        metrics: the metrics of a step.
        buffers: the batches that are measured and not sent yet.
        point: the log point of the current step, or None.
        seconds: the time spent in the tracker so far.
        busy: whether a record is incomplete.
        norms: the norms of the weights.
        deadline: the time after which the next step sends the block.
        block_end: the step that sends the block.
    """

    def __init__(
        self,
        metrics: StepMetrics,
        num_classes: int,
        averaging: Averaging,
        *,
        sinks: Iterable[Sink],
        header: Mapping[str, object],
        flush_seconds: float,
        sink_timeout: float,
        on_sink_error: Literal["warn", "raise"],
        log_cost: bool,
        ranks: Ranks | None,
        start_step: int = 0,
        ignore_index: int | None = None,
    ) -> None:
        self.lock = threading.RLock()
        self.buffers = Buffers(
            metrics, num_classes, averaging, ignore_index, merges=ranks is not None
        )
        self.metrics = metrics
        self.point: LogPoint | None = None
        self.seconds = 0.0
        self.busy = False
        self.norms = NormBuffer()
        self._writers = SinkWriters(sinks, header, sink_timeout)
        self._raise = on_sink_error == "raise"
        self._log_cost, self._ranks = log_cost, ranks
        self._flush_seconds = flush_seconds
        self._points: list[LogPoint] = []
        self._start_block(start_step)
        self._process = os.getpid()
        self._closed = False
        _live.add(self)

    @property
    def sinks(self) -> list[str]:
        """The names of the sinks that records go to."""
        return self._writers.names

    def open_point(self, step: int) -> LogPoint:
        """The log point of the current step, for single values."""
        if self.point is not None and self.point.step != step:
            self.close_point()  # an exception has kept its own step from closing it
        if self.point is None:
            self.point = LogPoint(step)
        return self.point

    def close_point(self) -> None:
        """Close the log point of the current step."""
        if self.point is not None:
            self._points.append(self.point)
            self.point = None

    def commit(self, step: int) -> None:
        """Close the record of the current step; send the block if it is due."""
        self.close_point()
        late = time.perf_counter() >= self.deadline or step >= self.block_end
        # ranks must end their blocks at the same step, even if one of them logs more
        full = self.norms.full or (self._ranks is None and len(self._points) >= _POINTS)
        if late or full or self.buffers.full:
            self.send(step)  # also renews the deadline
            if self._ranks is not None:
                self._ranks.warn()

    def leave_ranks(self) -> None:
        """Merge nothing with other ranks from now on."""
        if self._ranks is not None:
            self._ranks.alone = True

    def send(self, step: int = 0) -> None:
        """Evaluate all measurements, and give the records to the writers without waiting for them.

        Ranks that merge their measurements meet here, also those that have measured nothing.

        Args:
            step: the current step; the next block starts after it.
        """
        if os.getpid() != self._process:  # a forked process has no writers
            self._forget(len(self._points))
            return
        with self.lock:
            self._start_block(step)
            self.close_point()
            self._writers.submit()  # an exception may have left the last block unsent
            self._send_block()
        self._report()

    def flush(self, step: int = 0) -> None:
        """`send`, and wait until the sinks have everything."""
        if not self._closed:
            self.send(step)
            self.wait()

    def wait(self) -> None:
        """Wait until the sinks have everything that was sent."""
        if os.getpid() == self._process and not self._closed:
            self._writers.wait()
            self._report()

    def load_averages(self, states: Mapping[str, Tensor], step: int) -> None:
        """Continue with averages at ``step``; no measurement may be left to send."""
        self.buffers.load_averages(states)
        self._start_block(step)

    def close(self) -> None:
        """Send the rest and close the sinks. Calling it again does nothing.

        The rest is what this rank has measured; it does not wait for the others.
        """
        if self._closed or os.getpid() != self._process:
            return
        self._closed = True
        self.leave_ranks()
        try:
            self.send()
        finally:
            self._writers.close()
        self._report()

    def _start_block(self, step: int) -> None:
        """Set the deadline and the last step of the block that starts after ``step``."""
        if self._ranks is None:
            self.deadline, self.block_end = time.perf_counter() + self._flush_seconds, math.inf
        else:  # ranks must send their blocks at the same steps, and their clocks differ
            self.deadline, self.block_end = math.inf, step + min(_POINTS, self.buffers.capacity)

    def _send_block(self) -> None:
        points, filled, norms = self._points[:], self.buffers.filled, self.norms.table()
        steps: list[list[int]] = []
        states: list[Tensor] = []
        last: list[int] = [table.steps[-1] for table in norms]
        for buffer in filled:
            steps.append(buffer.steps[:])
            states.append(buffer.states[: len(buffer.steps)])
            last.append(buffer.steps[-1])
        if points:
            last.append(points[-1].step)
        states, local = merge_batches(self._ranks, filled, steps, states)
        if not last:  # nothing was measured
            return
        try:
            if self._writers:
                tables = tables_of(filled, steps, states)
            else:
                tables = []
                advance_averages(filled, states)
        except BaseException:
            if self._ranks is not None or self._closed:  # there is no second attempt
                self._deliver(points, [*norms, *local], max(last))
            raise
        self._deliver(points, [*tables, *norms, *local], max(last))

    def _deliver(self, points: list[LogPoint], tables: list[Table], last: int) -> None:
        """Give a block to the writers and forget its measurements, without a signal in between."""
        with defer_signals():
            number = len(points)
            if self._log_cost:
                if not points or points[-1].step != last:
                    points.append(LogPoint(last))
                points[-1].values[COST] = self.seconds
            if self._writers:
                self._writers.prepare(RecordBatch(points, tables))
            self._forget(number)
            self._writers.submit()

    def _forget(self, number: int) -> None:
        """Forget the rows of all buffers, the norms, and the first ``number`` log points."""
        del self._points[:number]
        self.buffers.clear()
        self.norms.clear()

    def _report(self) -> None:
        """Warn of each sink that has failed, or raise its error; it gets no more records."""
        with self.lock:
            failed = self._writers.remove_failed()
        for writer in failed:
            error = writer.failure
            text = f"{type(error).__name__}: {error}"
            if self._raise and isinstance(error, Exception):
                raise error
            if self._raise:  # a SystemExit of a sink's thread must not end this process
                raise RuntimeError(f"The sink {writer.name} failed: {text}") from error
            warnings.warn(
                f"The sink {writer.name} gets no more records, training goes on: {text}",
                RuntimeWarning,
                stacklevel=user_level(),
            )


class NormBuffer:
    """The norms of the weights that the extension has measured and that are not sent yet.

    A norm is that of the parameters which the model has at its step.

    Attributes:
        steps: the step of each norm.
        writer: the extension's writer, which measures and stores a norm in one call, or None.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self._values = torch.zeros(ROWS, dtype=torch.float64, device="cpu")
        self.writer = norm_writer(_raw.extension, self._values, self.steps)

    @property
    def full(self) -> bool:
        """Whether the norms must be sent before the next one."""
        return len(self.steps) >= ROWS

    def push(self, step: int, model: nn.Module) -> bool:
        """Measure the norm at ``step``, once; False if the extension cannot read the model."""
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


_live: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _renew_locks() -> None:
    """Replace the locks in a forked process: a thread of the parent may have held them."""
    for recorder in _live:
        recorder.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
