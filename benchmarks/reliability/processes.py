"""Runs functions in processes that are forked from this one, and kills them at a chosen moment.

Forking saves the imports, which take longer than most of the work. Linux only.
"""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
        status: its exit status; negative is the signal that killed it.
        value: what the function returned; None if it raised or was killed.
        error: the traceback if it raised, else "".
        output: what it wrote to stdout and stderr.
        cpu: seconds of CPU time that it took.
    """

    status: int
    value: Any
    error: str
    output: str
    cpu: float


class Process:
    """A function that runs in a process of its own.

    Args:
        call: the function; what it returns is pickled.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._report = Path(self._folder.name) / "report"
        self._output = Path(self._folder.name) / "output"
        self.pid = os.fork()
        if self.pid == 0:
            _run(call, self._report, self._output)

    def cpu(self) -> float:
        """Seconds of CPU time so far; infinite once the process has ended."""
        try:  # clock_getcpuclockid(3), which Python lacks
            return time.clock_gettime(~self.pid << 3 | 2)
        except OSError:
            return float("inf")

    def kill_at(self, cpu: float) -> None:
        """Kill the process with SIGKILL once it has used this much CPU time."""
        while self.cpu() < cpu and not self.over():
            time.sleep(0.0005)
        self.kill()

    def kill(self) -> None:
        """Kill the process with SIGKILL; nothing if it is over."""
        os.kill(self.pid, signal.SIGKILL)  # until `wait` the number is not given to another one

    def over(self) -> bool:
        """Whether the process has ended."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, flags) is not None

    def wait(self, seconds: float = 600) -> Ended:
        """Wait for the end; kill the process after ``seconds``.

        Raises:
            TimeoutError: it had to be killed.
        """
        deadline = time.monotonic() + seconds
        while not self.over():
            if time.monotonic() > deadline:
                self.kill()
                os.waitpid(self.pid, 0)
                self._folder.cleanup()
                raise TimeoutError(f"A process was still running after {seconds:.0f} seconds.")
            time.sleep(0.002)
        _, status, usage = os.wait4(self.pid, 0)
        value, error = None, ""
        if self._report.exists():
            value, error = pickle.loads(self._report.read_bytes())
        output = self._output.read_text(errors="replace") if self._output.exists() else ""
        self._folder.cleanup()
        cpu = usage.ru_utime + usage.ru_stime
        return Ended(os.waitstatus_to_exitcode(status), value, error, output, cpu)


def run(call: Callable[[], Any], seconds: float = 600) -> Ended:
    """Run a function in a process of its own and wait for its end."""
    return Process(call).wait(seconds)


def must(call: Callable[[], Any], seconds: float = 600) -> Any:
    """What a function returns that runs in a process of its own.

    Raises:
        RuntimeError: it raised or was killed.
    """
    ended = run(call, seconds)
    if ended.status != 0:
        raise RuntimeError(f"A process ended with {ended.status}:\n{ended.error}{ended.output}")
    return ended.value


def _run(call: Callable[[], Any], report: Path, output: Path) -> None:
    status = 1
    try:
        with output.open("wb") as file:
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)
        value, error = None, ""
        try:
            value, status = call(), 0
        except BaseException:
            error = traceback.format_exc()
        temporary = report.with_suffix(".new")
        temporary.write_bytes(pickle.dumps((value, error)))
        temporary.rename(report)
    finally:
        os._exit(status)
