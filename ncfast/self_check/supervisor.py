"""Runs workers of the self-check under a time limit, and writes the verdicts.

A worker that hangs is killed. After a hang or a crash another worker goes on with the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ncfast.ops import _verdicts
from ncfast.ops._background import python
from ncfast.ops._verdicts import Facts, Subject, Verdict

_START_SECONDS = 240.0  # in which a worker imports torch and says what it begins
MOST_LOSSES = 3  # workers that hang or crash; then the device is left alone
Report = Callable[[Subject, Verdict], None]


def main(text: str) -> None:
    """Check one device and write the verdicts, at low priority.

    Args:
        text: JSON with "file", "facts", and "visible": the value of CUDA_VISIBLE_DEVICES.
    """
    request = json.loads(text)
    with contextlib.suppress(AttributeError, OSError):
        os.nice(3)
    check_device(Path(request["file"]), request["facts"], request["visible"], alone=False)


def check_device(
    file: Path, facts: Facts, visible: str, report: Report | None = None, *, alone: bool
) -> None:
    """Check the device that ``visible`` names in CUDA_VISIBLE_DEVICES; see `Supervision`.

    Args:
        file: of the verdicts.
        facts: of the device.
        visible: names it.
        report: is called with each verdict.
        alone: whether no other program needs the memory of the device.
    """
    from ncfast.self_check.worker import subjects

    def command(left: Sequence[Subject]) -> list[str]:
        request = {"subjects": left, "device": "cuda:0", "facts": facts, "alone": alone}
        return python("ncfast.self_check.worker", json.dumps(request))

    Supervision(file, facts, command, _environment(visible), report=report).run(subjects())


def _environment(visible: str) -> dict[str, str]:
    left_out = ("TRITON_INTERPRET", "NCFAST_TRITON", "NCFAST_AUTOTUNE")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "CUDA_VISIBLE_DEVICES": visible}


@dataclass
class Supervision:
    """The check of one device.

    Attributes:
        file: where the verdicts are written, after each of them.
        facts: see `ncfast.ops._verdicts.facts`.
        command: starts a worker for the given subjects.
        environment: of the workers.
        seconds: the longest time for one subject.
        report: is called with each verdict.
        verdicts: so far.
        trouble: of the last worker that was lost before it began.
    """

    file: Path
    facts: Facts
    command: Callable[[Sequence[Subject]], list[str]]
    environment: Mapping[str, str]
    seconds: float = _verdicts.GROUP_SECONDS
    report: Report | None = None
    verdicts: dict[Subject, Verdict] = field(default_factory=dict)
    trouble: str = ""

    def run(self, subjects: Sequence[Subject]) -> None:
        """Check all subjects.

        Raises:
            OSError: no worker can be started, or the file cannot be written.
        """
        left, losses = [*subjects], 0
        while left and losses < MOST_LOSSES:
            reason = self._run_worker(left)
            left = [each for each in left if not self._settled(each)]
            losses += reason is None
            if reason is not None:
                break
        stopped = reason or f"the check ended after {MOST_LOSSES} crashes or hangs{self.trouble}"
        for each in left:
            self._settle(each, Verdict("unchecked", stopped))
        self._write(finished=True)

    def _settled(self, subject: Subject) -> bool:
        return subject in self.verdicts and self.verdicts[subject].state != "running"

    def _run_worker(self, left: Sequence[Subject]) -> str | None:
        """Run one worker until it has checked all, or is lost: then the reason is None."""
        worker = subprocess.Popen(
            self.command(left),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        lines = _Lines(worker)
        try:
            return self._listen(lines, worker)
        finally:
            worker.kill()
            worker.wait()
            lines.close()

    def _listen(self, lines: _Lines, worker: subprocess.Popen[str]) -> str | None:
        current: Subject | None = None
        while True:
            try:
                message = lines.next(_START_SECONDS if current is None else self.seconds)
            except queue.Empty:
                self._lose(current, Verdict("timed out", f"nothing came in {self.seconds:g} s"))
                return None
            if message is None:
                return self._ended(current, worker, lines)
            if "stop" in message:
                return str(message["stop"])
            if "begin" in message:
                current = Subject(*message["begin"])
                self.verdicts[current] = Verdict("running")
                self._write(finished=False)
            elif "end" in message:
                self._settle(Subject(*message["end"]), Verdict(*message["verdict"]))
                current = None

    def _ended(
        self, current: Subject | None, worker: subprocess.Popen[str], lines: _Lines
    ) -> str | None:
        status = worker.wait()
        if status == 0 and current is None:
            return ""
        self._lose(current, Verdict("crashed", f"{_named(status)}. {lines.last_error()}".strip()))
        return None

    def _lose(self, current: Subject | None, verdict: Verdict) -> None:
        if current is None:  # it was lost before it began
            self.trouble = f" ({verdict})"
        else:
            self._settle(current, verdict)

    def _settle(self, subject: Subject, verdict: Verdict) -> None:
        self.verdicts[subject] = verdict
        self._write(finished=False)
        if self.report is not None:
            self.report(subject, verdict)

    def _write(self, *, finished: bool) -> None:
        _verdicts.write(self.file, self.facts, self.verdicts.items(), finished=finished)


def _named(status: int) -> str:
    """The words for the exit status of a process."""
    if status >= 0:
        return f"the process ended with status {status}"
    with contextlib.suppress(ValueError):
        return f"the process was ended by {signal.Signals(-status).name}"
    return f"the process was ended by signal {-status}"


class _Lines:
    """The messages of a worker, read by threads so that waiting for them can end."""

    def __init__(self, worker: subprocess.Popen[str]) -> None:
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._errors: list[str] = []
        assert worker.stdout is not None
        assert worker.stderr is not None
        self._threads = [
            threading.Thread(target=self._read, args=(worker.stdout,), daemon=True),
            threading.Thread(target=self._read_errors, args=(worker.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, stream: Any) -> None:
        with stream:
            for line in stream:
                with contextlib.suppress(ValueError):  # a compiler may print, too
                    message = json.loads(line)
                    if isinstance(message, dict):
                        self._messages.put(message)
        self._messages.put(None)

    def _read_errors(self, stream: Any) -> None:
        with stream:
            for line in stream:
                self._errors = [*self._errors[-20:], line.strip()]

    def next(self, seconds: float) -> dict[str, Any] | None:
        """The next message; None at the end.

        Raises:
            queue.Empty: none came in this time.
        """
        return self._messages.get(timeout=seconds)

    def last_error(self) -> str:
        """The last line that the worker wrote to its standard error."""
        self.close()
        return next((line for line in reversed(self._errors) if line), "")[:300]

    def close(self) -> None:
        """Wait until everything is read; a process that the worker started may hold the pipes."""
        for thread in self._threads:
            thread.join(timeout=1)
