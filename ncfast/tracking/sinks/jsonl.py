"""Writes each record as a line of JSON: the default format, which loses the least in a crash."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ncfast._strict_json import json_line, parse_object, restored
from ncfast.tracking.keys import RUN
from ncfast.tracking.sinks.files import (
    REMEDY,
    LineFile,
    check_step,
    last_line,
    lines_of,
    next_run,
    read_header,
    warn_of_new_file,
    with_run,
    write_header,
)
from ncfast.tracking.sinks.protocol import Header, Record, Records


class JsonlSink:
    """Appends a line of JSON for each record; each line reaches the operating system whole.

    The JSON is strict: NaN and infinities are null, and the field "nonfinite" lists them. An
    existing file is continued, and a line that a killed process left unfinished is removed. If a
    write fails, the written part of the line is removed and OSError is raised. Several processes
    may append to one file. Every line of the log is a record; the header is in a separate file,
    ``metrics.header.json`` beside metrics.jsonl.

    Args:
        path: the file; its folder is made if needed.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = LineFile(path)
        self._opened = self._file.opened
        self._run = 0

    def continue_log(self, header: Header) -> None:
        """Write the number of the run into the records from now on, as "tracker/run".

        Raises:
            ValueError: the log was written with another header, or its last line is damaged.
        """
        if not self._file.regular:
            return
        with self._file.locked():
            line = last_line(self.path)
        last = _record(self.path, "the last line", line) if line else None
        self._run = next_run(self.path, last, header, read_header(self.path) if last else None)

    def start(self, header: Header) -> None:
        """Write the header file; a device or a pipe gets none."""
        if self._file.regular:
            write_header(self.path, header)

    def write(self, record: Record) -> None:
        """Append a record.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        self._append(json_line(with_run(record, self._run)).encode(), [record.get("step")])

    def write_block(self, records: Records) -> None:
        """Append many records.

        Raises:
            OSError: as in `write`; the whole lines before the failure remain.
        """
        lines = records.json_lines()
        if self._run:  # a line break is only at the end of a line, where strings have \\n
            lines = lines.replace(b"}\n", f', "{RUN}": {self._run}}}\n'.encode())
        self._append(lines, records.steps)

    def _append(self, lines: bytes, steps: Sequence[object]) -> None:
        self._file.append(lines, steps)
        if self._file.opened > self._opened:
            self._opened = self._file.opened
            warn_of_new_file(self.path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_jsonl(path: Path) -> Iterator[dict[str, float]]:
    """The records of a JSONL file in order, without an unfinished last line.

    NaN and infinities are restored, also those of version 0.1, which wrote NaN and Infinity.

    Raises:
        ValueError: a line other than an unfinished last one is no JSON object with a step; the
            message names it.
    """
    for number, line in enumerate(lines_of(path), start=1):
        yield _record(path, f"line {number}", line)


def _record(path: Path, where: str, line: bytes) -> dict[str, Any]:
    try:
        record = restored(parse_object(line))
    except ValueError as error:
        raise ValueError(f"{path}: {where} {error}. {REMEDY}") from error
    check_step(record, f"{path}: {where}")
    return record
