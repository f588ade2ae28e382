"""Collects what is measured at each step, and sends it to the sinks in blocks."""

from __future__ import annotations

import atexit
import math
import os
import threading
import time
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from ncfast.ops.states import Layout
from ncfast.tracking.averaging import Stream
from ncfast.tracking.buffer import MomentsRing, NormColumn
from ncfast.tracking.evaluation import evaluate_states
from ncfast.tracking.records import Block, LogPoint, Table
from ncfast.tracking.reduction import LOCAL, Batches, Ranks, in_words
from ncfast.tracking.shutdown import held_back
from ncfast.tracking.sinks import Sink
from ncfast.tracking.writer import SinkWriter

_POINTS = 128  # log points of a block, at most
COST = "tracker/seconds"


class Recorder:
    """Log points that are not written yet, the rings behind them, and the writers.

    Knows neither the model nor the tracker, so that it can be closed after both are gone. What is
    measured is forgotten only when the writers have it: an exception on the way, such as a
    KeyboardInterrupt, leaves it to the next call. A thread that adds to the records, or sends them,
    holds `lock`.

    Args:
        ids: metrics to evaluate.
        num_classes: K.
        stream: how batches are averaged.
        sinks: where records go.
        header: for the sinks.
        flush_seconds: a block is sent at the first step after so many seconds.
        sink_timeout: seconds that a call of a sink may take.
        on_sink_error: "warn" once and go on without the sink, or "raise".
        log_cost: whether the last record of a block holds `COST`.
        ranks: merge what is measured with the others, or None.
        start_step: of the first block.
    """

    def __init__(
        self,
        ids: Sequence[str],
        num_classes: int,
        stream: Stream,
        *,
        sinks: Iterable[Sink],
        header: Mapping[str, object],
        flush_seconds: float,
        sink_timeout: float,
        on_sink_error: Literal["warn", "raise"],
        log_cost: bool,
        ranks: Ranks | None,
        start_step: int = 0,
    ) -> None:
        self.lock = threading.RLock()
        self.point: LogPoint | None = None  # of the current step
        self.seconds = 0.0
        self.busy = False  # a record is half made
        self.norms = NormColumn()
        self._ids, self._num_classes, self._stream = ids, num_classes, stream
        self._writers = [SinkWriter(sink, header, sink_timeout) for sink in sinks]
        self._raise = on_sink_error == "raise"
        self._log_cost, self._ranks = log_cost, ranks
        self._flush_seconds = flush_seconds
        self.deadline = self._next_deadline()  # when a block is sent even if it is short
        self._points: list[LogPoint] = []
        self._outgoing: Block | None = None  # not all writers have it yet
        self._rings: list[MomentsRing] = []
        self._span = _POINTS  # steps of a block, where ranks reduce
        self.until = self._end_of_block(start_step)
        self._numbers: dict[tuple[str, int, torch.device], int] = {}
        self._process = os.getpid()
        self._closed = False
        _live.add(self)

    @property
    def sinks(self) -> list[str]:
        """Names of the sinks that records go to."""
        return [writer.name for writer in self._writers]

    def push(self, step: int, prefix: str, feats: Tensor, labels: Tensor) -> MomentsRing:
        """Measure a batch for the record of ``step``; arguments are checked by the caller.

        Returns:
            Where it went.
        """
        key = (prefix, feats.shape[1], feats.device)
        number = self._numbers.get(key, -1)
        if number < 0:
            number = self._numbers[key] = self._new_ring(*key)
        ring = self._rings[number]
        ring.push(step, feats, labels)
        return ring

    def replayed(self, step: int) -> None:
        """Add the rows that a replay of a CUDA graph has written to the record of ``step``."""
        for ring in self._rings:
            if ring.captured:
                ring.replayed(step)

    def at(self, step: int) -> LogPoint:
        """The open log point for single values, made if there is none."""
        if self.point is not None and self.point.step != step:
            self.close_point()  # an exception came before its step could
        if self.point is None:
            self.point = LogPoint(step)
        return self.point

    def commit(self, step: int) -> None:
        """Close the record of the current step, ``step``; send a block if it is time."""
        self.close_point()
        late = time.perf_counter() >= self.deadline or step >= self.until
        # what one rank alone logs must not end its block before those of the others
        full = self.norms.full or (self._ranks is None and len(self._points) >= _POINTS)
        if late or full or any(ring.full for ring in self._rings):
            self.send(step)  # renews the deadline, also of nothing
            if self._ranks is not None:
                self._ranks.warn(stacklevel=6)

    def leave(self) -> None:
        """Merge nothing with the other ranks from now on."""
        if self._ranks is not None:
            self._ranks.alone = True

    def send(self, step: int = 0) -> None:
        """Evaluate what has been measured and hand it to the writers; does not wait for them.

        Ranks that reduce meet here, also those with nothing.

        Args:
            step: the current one, after which the next block begins.
        """
        if os.getpid() != self._process:  # a fork has no writers
            self._forget(len(self._points))
            return
        with self.lock:
            self.deadline, self.until = self._next_deadline(), self._end_of_block(step)
            self.close_point()
            self._hand_over()
            self._send()
        self._report()

    def _send(self) -> None:
        points, filled, norms = self._points[:], self._filled(), self.norms.table()
        lists = [*(ring.steps for ring in filled), *(table.steps for table in norms)]
        if not (points or lists):
            self._merged([], [], ())
            return
        last = max([*(steps[-1] for steps in lists), *(point.step for point in points[-1:])])
        steps, states = zip(*(ring.rows() for ring in filled), strict=True) if filled else ((), ())
        rows = [(ring.layout, part) for ring, part in zip(filled, states, strict=True)]
        rows, local = self._merged(filled, rows, steps)
        try:
            tables = self._evaluate(filled, rows, steps)
        except BaseException:
            if self._ranks is not None or self._closed:  # they cannot be merged or tried again
                self._deliver(points, [*norms, *local], last)
            raise
        self._deliver(points, [*tables, *norms, *local], last)

    def flush(self, step: int = 0) -> None:
        """`send`, and wait until the sinks have it."""
        if not self._closed:
            self.send(step)
            self.wait()

    def wait(self) -> None:
        """Wait until the sinks have everything that was sent."""
        if os.getpid() == self._process and not self._closed:
            for writer in list(self._writers):
                writer.wait()
            self._report()

    def close(self) -> None:
        """Flush and close the sinks. Calling it again does nothing.

        What the other ranks were not met for holds what this rank has measured alone.
        """
        if self._closed or os.getpid() != self._process:
            return
        self._closed = True
        self.leave()
        try:
            self.send()
        finally:
            self._close_writers()
        self._report()

    def _close_writers(self) -> None:
        for writer in self._writers:
            writer.stop()
        try:
            for writer in self._writers:
                writer.close()
        except BaseException:  # an impatient user: the end of the process waits instead
            for writer in self._writers:
                atexit.register(writer.close)
            raise

    def _deliver(self, points: list[LogPoint], tables: list[Table], last: int) -> None:
        """Give a block to the writers, and forget what it holds: both or neither."""
        with held_back():
            number = len(points)
            if self._log_cost:
                if not points or points[-1].step != last:
                    points.append(LogPoint(last))
                points[-1].values[COST] = self.seconds
            self._outgoing = Block(points, tables) if self._writers else None
            self._forget(number)
            self._hand_over()

    def _hand_over(self) -> None:
        if self._outgoing is not None:
            for writer in self._writers:
                writer.submit(self._outgoing)
            self._outgoing = None

    def _forget(self, number: int) -> None:
        """Forget the rows of all rings, the norms, and the first log points."""
        del self._points[:number]
        for ring in self._filled():
            ring.clear()
        self.norms.clear()

    def _new_ring(self, prefix: str, dim: int, device: torch.device) -> int:
        layout = Layout(self._num_classes, dim)
        with torch.inference_mode(False):  # its tensors could not be written to later
            self._rings.append(MomentsRing(prefix, self._ids, layout, device, self._stream))
        self._span = min(self._span, self._rings[-1].capacity)
        return len(self._rings) - 1

    def _evaluate(
        self, filled: list[MomentsRing], rows: Batches, steps: Sequence[list[int]]
    ) -> list[Table]:
        """Results of the rings; those whose states have the same layout in one call."""
        if not self._writers:
            return []
        groups: dict[tuple[Layout, torch.device], list[tuple[int, Tensor]]] = {}
        for number, (ring, (_, batches)) in enumerate(zip(filled, rows, strict=True)):
            averages, layout = ring.averaged(batches)
            groups.setdefault((layout, ring.device), []).append((number, averages))
        values: dict[int, Tensor] = {}
        for (layout, _), members in groups.items():
            parts = [part for _, part in members]
            joined = parts[0] if len(parts) == 1 else torch.cat(parts)
            found = evaluate_states(joined, layout, self._ids).split([len(part) for part in parts])
            values.update(zip((number for number, _ in members), found, strict=True))
        return [Table(ring.keys, steps[i], values[i]) for i, ring in enumerate(filled)]

    def _merged(
        self, rings: list[MomentsRing], batches: Batches, steps: Sequence[list[int]]
    ) -> tuple[Batches, list[Table]]:
        """The batches over all ranks; or as they are, and a table that says so."""
        if self._ranks is None:
            return batches, []
        said = [f"{in_words(of)} of {ring.prefix}" for ring, of in zip(rings, steps, strict=True)]
        merged = self._ranks.batches(batches, "; ".join(said) or in_words(()))
        if merged is not None:
            return merged, []
        marked = sorted({step for of in steps for step in of})
        ones = torch.ones(len(marked), 1, dtype=torch.float64, device="cpu")
        return batches, [Table([LOCAL], marked, ones)] if marked else []

    def _filled(self) -> list[MomentsRing]:
        return [ring for ring in self._rings if ring.steps]

    def close_point(self) -> None:
        """Close the record of the current step."""
        if self.point is not None:
            self._points.append(self.point)
            self.point = None

    def _next_deadline(self) -> float:
        # ranks must reduce at the same steps, so that the clock has no say
        return math.inf if self._ranks is not None else time.perf_counter() + self._flush_seconds

    def _end_of_block(self, step: int) -> float:
        return math.inf if self._ranks is None else step + self._span

    def _report(self) -> None:
        """Say once which sink has failed, and let go of it."""
        with self.lock:
            failed = [writer for writer in self._writers if writer.failure is not None]
            self._writers = [writer for writer in self._writers if writer not in failed]
        for writer in failed:
            writer.stop()
            error = writer.failure
            said = f"{type(error).__name__}: {error}"
            if self._raise and isinstance(error, Exception):
                raise error
            if self._raise:  # what ends a thread of a sink is no wish to end this process
                raise RuntimeError(f"The sink {writer.name} failed: {said}") from error
            warnings.warn(
                f"The sink {writer.name} gets no more records, training goes on: {said}",
                RuntimeWarning,
                stacklevel=2,
            )


_live: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _renew_locks() -> None:
    """In a fork: another thread of the parent may have held them."""
    for recorder in _live:
        recorder.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
