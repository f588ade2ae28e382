"""Where records go: a JSONL file, or anything callable."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

Record = Mapping[str, float]


@runtime_checkable
class Sink(Protocol):
    """Takes finished records, one at a time."""

    def write(self, record: Record) -> None:
        """Take a record; may keep it, must not change it."""

    def close(self) -> None:
        """Finish; nothing is written afterwards."""


class CallableSink:
    """A sink around a function, such as ``records.append``."""

    def __init__(self, function: Callable[[Record], object]) -> None:
        self._function = function

    def write(self, record: Record) -> None:
        """Call the function."""
        self._function(record)

    def close(self) -> None:
        """Nothing to release."""


class JsonlSink:
    """Appends one JSON object a line to a file; each line reaches the operating system whole.

    NaN and infinities are written as NaN and Infinity, which Python's json reads back. A line that
    an earlier, killed process left unfinished is removed on opening. When a write fails, what it
    had written of the line is taken back and OSError is raised.

    Args:
        path: the file; its folder is made if needed.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # unbuffered: a line is one write, and after a crash the file ends with a whole line
        self._file = self.path.open("ab", buffering=0)
        if self.path.is_file():
            self._file.truncate(_end_of_last_line(self.path))

    def write(self, record: Record) -> None:
        """Append a record.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        line = (json.dumps(record) + "\n").encode()
        start = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(start)
            raise OSError(
                error.errno,
                f"Could not append a record of step {record.get('step')} ({error.strerror}); the "
                "records before it are whole. Free some space, or choose another directory",
                str(self.path),
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _end_of_last_line(path: Path) -> int:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def as_sink(sink: Sink | str | os.PathLike[str] | Callable[[Record], object]) -> Sink:
    """A path as a JSONL file, a callable as a sink, a sink as it is.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(sink, (str, os.PathLike)):
        return JsonlSink(sink)
    if isinstance(sink, Sink):
        return sink
    if callable(sink):
        return CallableSink(sink)
    raise TypeError(
        "Expected a sink to be a path, a callable or an object with write and close but got "
        f"{type(sink).__name__}."
    )


def read_records(path: str | os.PathLike[str]) -> Iterator[dict[str, float]]:
    """The records of a JSONL file in order; a half-written last line is left out.

    Raises:
        ValueError: a line other than the last is no JSON object; it is named.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}: line {number} is no JSON object: {error}") from error
            yield record
