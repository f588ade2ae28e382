"""Writes records as the rows of a CSV file, for spreadsheets."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ncfast._files import replacing
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
from ncfast.tracking.sinks.protocol import Header, Record


class CsvSink:
    """Appends a row for each record to a CSV file; each row reaches the operating system whole.

    The columns are the keys, in the order in which they first appear. A key that appears later
    becomes a new column on the right: the file is rewritten once, completely or not at all. A
    record without a key has an empty cell. Numbers are written with all their digits, NaN and
    infinities as ``nan`` and ``inf``. An existing file is continued, and a row that a killed
    process left unfinished is removed. Several processes may append to one file. The header is in a
    separate file, ``metrics.header.json`` beside metrics.csv.

    Args:
        path: the file; its folder is made if needed.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = LineFile(path)
        self._columns: list[str] = []
        self._opened = 0  # `LineFile.opened` when the columns were read
        self._run = 0

    def continue_log(self, header: Header) -> None:
        """Write the number of the run into the records from now on, as "tracker/run".

        Raises:
            ValueError: the log was written with another header, or its last row is damaged.
        """
        if not self._file.regular:
            return
        with self._file.locked(), _clean_errors(self.path):
            columns = _columns(self.path)
            row = next(csv.reader([last_line(self.path).decode()]), columns)
        last = None if row == columns else _record(self.path, "the last row", columns, row)
        self._run = next_run(self.path, last, header, read_header(self.path) if last else None)

    def start(self, header: Header) -> None:
        """Write the header file; a device or a pipe gets none."""
        if self._file.regular:
            write_header(self.path, header)

    def write(self, record: Record) -> None:
        """Append a row.

        Raises:
            OSError: the disk is full, or the file cannot be written; earlier rows are whole.
            ValueError: a new key needs a column, and the path is a device or a pipe.
        """
        record = with_run(record, self._run)
        with self._file.locked():
            self._read_columns()
            columns = list(dict.fromkeys([*self._columns, *record]))
            rows: list[Sequence[object]] = [[record.get(column, "") for column in columns]]
            if not self._columns:
                rows.insert(0, columns)
            elif len(columns) > len(self._columns):
                self._widen(columns)
            self._file.append_locked(_text(rows).encode(), [record.get("step")])
            self._columns = columns

    def _read_columns(self) -> None:
        """Read the first line of the file, which another process may have written."""
        if self._file.is_empty() and self._opened == self._file.opened:  # emptied by a rotation
            self._columns = []
        if not self._file.regular or (self._columns and self._opened == self._file.opened):
            return
        known, self._columns = self._columns, _columns(self.path)
        if known and self._columns[: len(known)] != known:
            warn_of_new_file(self.path)
        self._opened = self._file.opened

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _widen(self, columns: list[str]) -> None:
        if not self._file.regular:
            raise ValueError(
                f"Expected the keys {self._columns} in every record for {self.path}, which is no "
                f"regular file and cannot get new columns, but got {columns}. Write to a file."
            )
        padding = [""] * (len(columns) - len(self._columns))
        with (
            replacing(self.path) as temporary,
            self.path.open(newline="") as old,
            temporary.open("w", newline="") as new,
        ):
            rows = csv.reader(old)
            next(rows)
            writer = csv.writer(new, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([*row, *padding] for row in rows)
        self._file.reopen_locked()
        self._opened = self._file.opened


def read_csv(path: Path) -> Iterator[dict[str, float]]:
    """The records of a CSV file in order, without empty cells and without an unfinished last row.

    Raises:
        ValueError: a row has other columns than the first line, no step, or a cell that is no
            number; the message names it.
    """
    with _clean_errors(path):
        rows = csv.reader(line.decode() for line in lines_of(path))
        columns = next(rows, [])
        for row in rows:
            yield _record(path, f"line {rows.line_num}", columns, row)


@contextlib.contextmanager
def _clean_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a CSV file but got {error}. {REMEDY}") from error


def _record(path: Path, where: str, columns: list[str], row: list[str]) -> dict[str, float]:
    if len(row) != len(columns):
        raise ValueError(
            f"{path}: {where}: expected {len(columns)} cells but got {len(row)}. {REMEDY}"
        )
    cells = {name: cell for name, cell in zip(columns, row, strict=True) if cell}
    try:
        record = {name: _number(cell) for name, cell in cells.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {where}: expected numbers but {error}. {REMEDY}") from error
    check_step(record, f"{path}: {where}")
    return record


def _columns(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def _text(rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _number(cell: str) -> float:
    try:
        return int(cell)
    except ValueError:
        return float(cell)
