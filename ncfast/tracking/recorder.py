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
from torch import Tensor

from ncfast.ops import _raw
from ncfast.ops.states import Layout
from ncfast.tracking.averaging import Averaging
from ncfast.tracking.buffer import MomentsBuffer, NormBuffer, slots_for
from ncfast.tracking.evaluation import evaluate_buffers
from ncfast.tracking.keys import COST, LOCAL
from ncfast.tracking.messages import user_level
from ncfast.tracking.records import LeftOut, LogPoint, RecordBatch, Table
from ncfast.tracking.reduction import Ranks, describe_steps
from ncfast.tracking.shutdown import defer_signals
from ncfast.tracking.sinks import Sink
from ncfast.tracking.step_metrics import Classifier, StepMetrics
from ncfast.tracking.writer import SinkWriters

_POINTS = 128  # most log points of a block


class Recorder:
    """Holds the log points that are not written yet, the buffers behind them, and the writers.

    A block is what is evaluated and sent at once. The recorder knows neither the model nor the
    tracker, so it can be closed after both are gone. It forgets a measurement only when the writers
    have it: after an exception in between, such as a KeyboardInterrupt, the next call sends it. A
    thread that adds to the records, or sends them, holds `lock`.

    Args:
        metrics: the metrics of a step.
        num_classes: K.
        averaging: how batches are averaged.
        sinks: where records go.
        header: the header for the sinks.
        flush_seconds: the first step after so many seconds sends a block.
        sink_timeout: seconds that a call of a sink may take.
        on_sink_error: "warn" once and go on without the sink, or "raise".
        log_cost: whether the last record of a block holds `COST`.
        ranks: the other ranks to merge measurements with, or None.
        start_step: the step at which the first block starts.
        ignore_index: rows with this label are left out; None leaves out none.

    Attributes:
        metrics: the metrics of a step.
        point: the log point of the current step, or None.
        seconds: the time spent in the tracker so far.
        busy: whether a record is incomplete at the moment.
        norms: the norms of the weights.
        deadline: the time at which a block is sent even if it is short.
        block_end: the step at which a block is sent even if it is short.
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
        self.metrics, self._ignore_index = metrics, ignore_index
        self.point: LogPoint | None = None
        self.seconds = 0.0
        self.busy = False
        self.norms = NormBuffer()
        self._num_classes, self._averaging = num_classes, averaging
        # the rows of a buffer need not hold absent classes, unless they are merged or averaged
        alone = ranks is None and averaging.kind == "batch" and _raw.extension is not None
        self._holds_present = alone and metrics.of_moments_alone
        self._writers = SinkWriters(sinks, header, sink_timeout)
        self._raise = on_sink_error == "raise"
        self._log_cost, self._ranks = log_cost, ranks
        self._flush_seconds = flush_seconds
        self.deadline = self._next_deadline()
        self._points: list[LogPoint] = []
        self._buffers: list[MomentsBuffer] = []
        self._block_steps = _POINTS  # where ranks reduce
        self.block_end = self._next_block_end(start_step)
        self._numbers: dict[object, int] = {}
        self._process = os.getpid()
        self._closed = False
        _live.add(self)

    @property
    def sinks(self) -> list[str]:
        """The names of the sinks that records go to."""
        return self._writers.names

    def push(
        self,
        step: int,
        prefix: str,
        feats: Tensor,
        labels: Tensor,
        *,
        mask: Tensor | None = None,
        classifier: Classifier | None = None,
        left_out_key: str = "",
    ) -> MomentsBuffer:
        """Measure a batch, which the caller has checked, for the record of ``step``.

        Args:
            step: the current step.
            prefix: the first part of the keys.
            feats: see `MomentsBuffer.push`.
            labels: likewise.
            mask: likewise.
            classifier: likewise.
            left_out_key: the key for the number of rows that are left out.

        Returns:
            The buffer that holds its moments.
        """
        kept = [] if classifier is None else [None if p is None else p.dtype for p in classifier]
        classes = self._num_classes
        if self._holds_present and feats.is_cpu:
            classes = slots_for(len(feats), classes)
        key = (prefix, feats.shape[1], feats.device, classes, *kept)
        number = self._numbers.get(key, -1)
        if number < 0:
            number = self._new_buffer(prefix, classes, feats, classifier, left_out_key)
            self._numbers[key] = number
        buffer = self._buffers[number]
        buffer.push(step, feats, labels, mask, classifier)
        return buffer

    def replayed(self, step: int) -> None:
        """Add the rows that a replayed CUDA graph has written to the record of ``step``."""
        for buffer in self._buffers:
            if buffer.captured:
                buffer.replayed(step)

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
        """Close the record of the current step, ``step``; send a block if one is due."""
        self.close_point()
        late = time.perf_counter() >= self.deadline or step >= self.block_end
        # ranks must end their blocks at the same step, however much one of them logs
        full = self.norms.full or (self._ranks is None and len(self._points) >= _POINTS)
        if late or full or any(buffer.full for buffer in self._buffers):
            self.send(step)  # also renews the deadline
            if self._ranks is not None:
                self._ranks.warn()

    def leave_ranks(self) -> None:
        """Merge nothing with the other ranks from now on."""
        if self._ranks is not None:
            self._ranks.alone = True

    def send(self, step: int = 0) -> None:
        """Evaluate all measurements and give them to the writers, without waiting for these.

        Ranks that reduce meet here, also those that have measured nothing.

        Args:
            step: the current step, after which the next block starts.
        """
        if os.getpid() != self._process:  # a forked process has no writers
            self._forget(len(self._points))
            return
        with self.lock:
            self.deadline, self.block_end = self._next_deadline(), self._next_block_end(step)
            self.close_point()
            self._writers.submit()  # a block that an exception has held up
            self._send()
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

    def _send(self) -> None:
        points, filled, norms = self._points[:], self._filled(), self.norms.table()
        lists = [*(buffer.steps for buffer in filled), *(table.steps for table in norms)]
        if not (points or lists):
            self._merged([], [], [])
            return
        last = max([*(steps[-1] for steps in lists), *(point.step for point in points[-1:])])
        rows = [buffer.rows() for buffer in filled]
        steps, states = [of for of, _ in rows], [of for _, of in rows]
        states, local = self._merged(filled, steps, states)
        try:
            tables = self._evaluate(filled, steps, states)
        except BaseException:
            if self._ranks is not None or self._closed:  # there is no second attempt
                self._deliver(points, [*norms, *local], last)
            raise
        self._deliver(points, [*tables, *norms, *local], last)

    def _merged(
        self, buffers: list[MomentsBuffer], steps: list[list[int]], states: list[Tensor]
    ) -> tuple[list[Tensor], list[Table]]:
        """The states over all ranks; or the states of this rank, and a table that marks them."""
        if self._ranks is None:
            return states, []
        pairs = list(zip(buffers, steps, strict=True))
        call = "; ".join(f"{describe_steps(of)} of {buffer.prefix}" for buffer, of in pairs)
        layouts = [buffer.layout for buffer in buffers]
        numbers = [b.extras.left_out[: len(of)] for b, of in pairs]
        merged = self._ranks.batches(layouts, states, call or describe_steps(()), numbers)
        if merged is not None:
            for buffer, left_out in zip(buffers, merged[len(states) :], strict=True):
                buffer.extras.merge_left_out(left_out)
            return merged[: len(states)], []
        marked = sorted({step for of in steps for step in of})
        ones = torch.ones(len(marked), 1, dtype=torch.float64, device="cpu")
        return states, [Table([LOCAL], marked, ones)] if marked else []

    def _evaluate(
        self, buffers: list[MomentsBuffer], steps: list[list[int]], states: list[Tensor]
    ) -> list[Table]:
        if not self._writers:
            return []
        found = evaluate_buffers(buffers, states)
        return [
            Table(buffer.keys, of, values, _left_out(buffer, rows))
            for buffer, of, (values, rows) in zip(buffers, steps, found, strict=True)
        ]

    def _deliver(self, points: list[LogPoint], tables: list[Table], last: int) -> None:
        """Give a block to the writers and forget what it holds; no signal handler comes between."""
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
        for buffer in self._filled():
            buffer.clear()
        self.norms.clear()

    def _new_buffer(
        self,
        prefix: str,
        classes: int,
        feats: Tensor,
        classifier: Classifier | None,
        left_out_key: str,
    ) -> int:
        layout = Layout(classes, feats.shape[1])
        measured = self.metrics.measured(layout.dim, classifier)
        with torch.inference_mode(False):  # else later steps could not write to its tensors
            buffer = MomentsBuffer(
                prefix,
                measured.ids,
                layout,
                feats.device,
                self._averaging,
                of_batch=measured.of_batch,
                classifier=classifier if measured.reads_classifier else None,
                ignore_index=self._ignore_index,
                left_out_key=left_out_key,
                num_classes=self._num_classes,
            )
        self._buffers.append(buffer)
        self._block_steps = min(self._block_steps, buffer.capacity)
        return len(self._buffers) - 1

    def _filled(self) -> list[MomentsBuffer]:
        return [buffer for buffer in self._buffers if buffer.steps]

    def _next_deadline(self) -> float:
        # ranks must reduce at the same steps, which their clocks do not give
        return math.inf if self._ranks is not None else time.perf_counter() + self._flush_seconds

    def _next_block_end(self, step: int) -> float:
        return math.inf if self._ranks is None else step + self._block_steps

    def _report(self) -> None:
        """Warn once of each sink that has failed, or raise; send nothing more to it."""
        with self.lock:
            failed = self._writers.remove_failed()
        for writer in failed:
            error = writer.failure
            text = f"{type(error).__name__}: {error}"
            if self._raise and isinstance(error, Exception):
                raise error
            if self._raise:  # SystemExit in a sink's thread must not end this process
                raise RuntimeError(f"The sink {writer.name} failed: {text}") from error
            warnings.warn(
                f"The sink {writer.name} gets no more records, training goes on: {text}",
                RuntimeWarning,
                stacklevel=user_level(),
            )


def _left_out(buffer: MomentsBuffer, rows: Tensor) -> LeftOut | None:
    numbers = buffer.extras.numbers_left_out(len(rows))
    if numbers is None:
        return None
    return LeftOut(buffer.left_out_key, torch.stack([numbers, rows.to(torch.float64)], 1))


_live: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _renew_locks() -> None:
    """In a forked process: another thread of the parent may have held the locks."""
    for recorder in _live:
        recorder.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
