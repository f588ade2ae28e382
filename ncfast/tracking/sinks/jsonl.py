"""Writes each record as a line of JSON: the default format, which loses least in a crash."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ncfast._strict_json import json_line, restored
from ncfast.tracking.sinks.files import LineFile, warn_of_new_file, write_header
from ncfast.tracking.sinks.protocol import Header, Record, Records


class JsonlSink:
    """Appends a line of JSON for each record; each line reaches the operating system whole.

    The JSON is strict: NaN and infinities are null, and the field "nonfinite" lists them, see
    `ncfast.tracking.sinks.strict_json`. A line that an earlier, killed process left unfinished is
    removed on opening. When a write fails, the part of the line that was written is removed and
    OSError is raised. Several processes may append to one file. Every line of the log is a record;
    the header is stored in a file of its own, ``metrics.header.json`` beside metrics.jsonl.

    Args:
        path: the file; its folder is made if needed.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = LineFile(path)
        self._opened = self._file.opened

    def start(self, header: Header) -> None:
        """Write the header file; a device or a pipe gets none."""
        if self._file.regular:
            write_header(self.path, header)

    def write(self, record: Record) -> None:
        """Append a record.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        self._append(json_line(record).encode(), [record.get("step")])

    def write_block(self, records: Records) -> None:
        """Append many records. On an OSError, as in `write`, the whole lines so far stay."""
        self._append(records.json_lines(), records.steps)

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
        ValueError: a line other than the last is no JSON object; the message names it.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}: line {number} is no JSON object: {error}") from error
            if not isinstance(record, dict):
                raise ValueError(f"{path}: line {number} is no JSON object: {str(record)[:40]}")
            yield restored(record)
