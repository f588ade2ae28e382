"""Calls each sink from a separate thread: a slow or failing sink does not delay training."""

from __future__ import annotations

import atexit
import contextvars
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ncfast.tracking.records import RecordBatch
from ncfast.tracking.sinks import Sink

_BACKLOG = 1024  # most blocks that may wait for a slow sink
_POLL = 0.0002  # seconds between two looks; waiting without a lock is safe in a signal handler


class SinkWriters:
    """The writers of all sinks of a tracker.

    Args:
        sinks: where records go.
        header: the argument of ``start``, for each sink that has it.
        timeout: seconds that one call of a sink may take.
    """

    def __init__(self, sinks: Iterable[Sink], header: Mapping[str, object], timeout: float) -> None:
        self._writers = [SinkWriter(sink, header, timeout) for sink in sinks]
        self._unsent: RecordBatch | None = None

    def __len__(self) -> int:
        """The number of sinks that still get records."""
        return len(self._writers)

    @property
    def names(self) -> list[str]:
        """The names of the sinks that still get records."""
        return [writer.name for writer in self._writers]

    def prepare(self, block: RecordBatch) -> None:
        """Keep a block for `submit`, which may be interrupted."""
        self._unsent = block

    def submit(self) -> None:
        """Give the prepared block to each writer that does not have it yet."""
        if self._unsent is not None:
            for writer in self._writers:
                writer.submit(self._unsent)
            self._unsent = None

    def wait(self) -> None:
        """Wait until each sink has written all submitted blocks, or has failed."""
        for writer in list(self._writers):
            writer.wait()

    def remove_failed(self) -> list[SinkWriter]:
        """Stop and remove the writers whose sink has failed, and return them."""
        failed = [writer for writer in self._writers if writer.failure is not None]
        if failed:
            self._writers = [writer for writer in self._writers if writer not in failed]
        for writer in failed:
            writer.stop()
        return failed

    def close(self) -> None:
        """Write the rest and close the sinks."""
        for writer in self._writers:
            writer.stop()
        try:
            for writer in self._writers:
                writer.close()
        except BaseException:  # the user interrupts; the end of the process waits for the rest
            for writer in self._writers:
                atexit.register(writer.close)
            raise


class SinkWriter:
    """Gives blocks to one sink, in order, from a separate thread.

    The thread has the context variables and the active runs of the thread that makes the writer.

    Args:
        sink: where the records go.
        header: the argument of ``start``, if the sink has it.
        timeout: seconds that one call of the sink may take before the writer gives up the sink.

    Attributes:
        failure: the exception for which the writer gave up the sink, or None.
    """

    def __init__(self, sink: Sink, header: Mapping[str, object], timeout: float) -> None:
        self.failure: BaseException | None = None
        self._sink, self._header, self._timeout = sink, header, timeout
        self._queue: queue.SimpleQueue[RecordBatch | None] = queue.SimpleQueue()
        self._submitted = self._completed = 0
        self._last: RecordBatch | None = None
        self._called: float | None = None  # when the present call of the sink began
        self._thread: threading.Thread | None = None
        self._context = CallerContext()
        self._stopped = False

    @property
    def name(self) -> str:
        """The name of the sink for messages."""
        sink = getattr(self._sink, "wrapped", self._sink)
        path = getattr(sink, "path", None)
        return f"{type(sink).__name__}({path})" if path else type(sink).__name__

    def submit(self, block: RecordBatch) -> None:
        """Queue a block without waiting; do nothing if it is queued already, or the sink failed."""
        if block is self._last:
            return
        self._check_time()
        if self.failure is None and self._submitted - self._completed >= _BACKLOG:
            self.failure = TimeoutError(f"it did not keep up: {_BACKLOG} blocks were waiting")
        if self.failure is None:
            self._last = block
            self._put(block)

    def wait(self) -> None:
        """Wait until all queued blocks are written, or the sink has failed."""
        while self._completed < self._submitted and self.failure is None:
            time.sleep(_POLL)
            self._check_time()

    def stop(self) -> None:
        """Tell the thread to close the sink and end, without waiting for it."""
        if not self._stopped:
            self._stopped = True
            self._put(None)

    def close(self) -> None:
        """Write the rest and close the sink."""
        self.stop()
        thread = self._thread
        while (
            thread is not None and thread.is_alive() and not isinstance(self.failure, TimeoutError)
        ):
            time.sleep(_POLL)
            self._check_time()

    def _put(self, block: RecordBatch | None) -> None:
        self._submitted += 1
        self._queue.put(block)
        if self._thread is None:
            # a daemon thread: a sink that hangs must not keep the process from ending
            thread = threading.Thread(
                target=self._context.run, args=(self._run,), name="ncfast-sink", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:  # the system has no more threads
                self.failure = self.failure or error
            else:
                self._thread = thread

    def _check_time(self) -> None:
        called = self._called
        if called is not None and time.monotonic() - called > self._timeout:
            self.failure = TimeoutError(f"it has not returned for {self._timeout:g} seconds")

    def _run(self) -> None:
        self._attempt(self._start)
        while (block := self._queue.get()) is not None:
            self._attempt(lambda block=block: self._deliver(block))  # type: ignore[misc]
            self._completed += 1
        if not isinstance(self.failure, TimeoutError):
            self._attempt(self._sink.close, even_after_failure=True)
        self._completed += 1

    def _start(self) -> None:
        if hasattr(self._sink, "start"):
            self._sink.start(self._header)

    def _deliver(self, block: RecordBatch) -> None:
        if hasattr(self._sink, "write_block"):
            self._sink.write_block(block)
        else:
            for record in block:
                self._called = time.monotonic()
                if self.failure is not None:
                    return
                self._sink.write(record)
        if hasattr(self._sink, "flush"):
            self._sink.flush()

    def _attempt(self, call: Callable[[], object], *, even_after_failure: bool = False) -> None:
        if self.failure is not None and not even_after_failure:
            return
        self._called = time.monotonic()
        try:
            call()
        except BaseException as error:  # SystemExit too: else `wait` would wait for a dead thread
            self.failure = self.failure or error
        finally:
            self._called = None


class CallerContext:
    """The context variables and the active MLflow run of the thread that makes this object.

    `run` calls a function in another thread with copies of both, because trackio keeps its current
    run in a context variable, and MLflow keeps a stack of active runs for each thread. The other
    thread cannot end a run of the caller.

    Example:
        >>> import contextvars, threading
        >>> project = contextvars.ContextVar("project")
        >>> token, seen = project.set("mine"), []
        >>> context = CallerContext()
        >>> threading.Thread(target=context.run, args=(lambda: seen.append(project.get()),)).run()
        >>> seen
        ['mine']
    """

    def __init__(self) -> None:
        self._variables = contextvars.copy_context()
        stack = _mlflow_runs()
        self._runs = [] if stack is None else list(stack.get())

    def run(self, function: Callable[[], object]) -> None:
        """Call ``function`` in the current thread with the caller's context and active run."""
        stack = _mlflow_runs() if self._runs else None
        if stack is not None:
            stack.set(self._runs)
        self._variables.run(function)


def _mlflow_runs() -> Any:
    """MLflow's stack of active runs for each thread; None if MLflow is not in use."""
    # its public start_run(run_id=) would set the state of a finished run back to running
    return getattr(sys.modules.get("mlflow.tracking.fluent"), "_active_run_stack", None)
