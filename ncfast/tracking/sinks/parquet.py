"""Writes records as Parquet files, for long runs that a data frame library reads."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ncfast._files import replacing
from ncfast._optional import need
from ncfast._strict_json import parse_object
from ncfast.tracking.keys import RUN
from ncfast.tracking.sinks.files import check_step, next_run, with_run
from ncfast.tracking.sinks.protocol import Header, Record

_PURPOSE = "A Parquet sink"
_HEADER = b"ncfast"


class ParquetSink:
    """Writes a directory of Parquet files, which pandas, polars, DuckDB and pyarrow read as one.

    A Parquet file cannot be read before it is complete. The sink therefore collects records in
    memory and writes them in part files, each of which appears complete or not at all. `flush`
    writes the part that is not full yet, and the next flush writes it again: a killed process loses
    the records since the last flush. Steps are int64, other numbers float64, absent values null.
    All parts have the same columns: a key that appears later is added to the earlier parts. An
    existing directory is continued. The header is JSON in the metadata of the schema, under
    "ncfast".

    Args:
        path: the directory, such as "runs/mine/metrics.parquet"; it is made if needed.
        rows: records in a part.
        seconds: the first record after so many seconds writes the part that is not full.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        OSError: the directory cannot be made, or ``path`` is a file.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, rows: int = 1000, seconds: float = 30.0
    ) -> None:
        self._arrow, self._parquet = need("pyarrow", _PURPOSE), need("pyarrow.parquet", _PURPOSE)
        self.path = Path(path).expanduser()
        self.path.mkdir(parents=True, exist_ok=True)
        self._rows, self._seconds = rows, seconds
        self._pending: list[Record] = []
        self._deadline = time.monotonic() + seconds
        self._dirty = False
        self._schema, self._number, self._run = self._arrow.schema([]), 0, 0
        if before := parts(self.path):
            with _clean_errors(before[0]):
                self._schema = self._parquet.read_schema(before[0])
            with _clean_errors(before[-1]):
                self._number = int(before[-1].stem.removeprefix("part-")) + 1

    def continue_log(self, header: Header) -> None:
        """Write the number of the run into the records from now on, as "tracker/run".

        Raises:
            ValueError: the log was written with another header, or its last part is damaged.
        """
        records = [record for part in parts(self.path)[-1:] for record in _records(part)]
        found = (self._schema.metadata or {}).get(_HEADER)
        try:
            before = None if found is None else parse_object(found)
        except ValueError as error:
            raise ValueError(f"{self.path}: the header in its schema {error}.") from error
        self._run = next_run(self.path, records[-1] if records else None, header, before)

    def start(self, header: Header) -> None:
        """Keep the header for the next parts."""
        text = json.dumps(header, default=str).encode()
        self._schema = self._schema.with_metadata({_HEADER: text})

    def write(self, record: Record) -> None:
        """Add a record to the part that is not full yet.

        Raises:
            OSError: the disk is full; earlier parts are whole.
        """
        self._pending.append(with_run(record, self._run))
        self._dirty = True
        if len(self._pending) >= self._rows or time.monotonic() >= self._deadline:
            self.flush()

    def flush(self) -> None:
        """Write the part that is not full yet.

        Raises:
            OSError: the disk is full; earlier parts are whole.
        """
        self._deadline = time.monotonic() + self._seconds
        if not self._dirty:
            return
        if self._extend_schema():
            self._widen()
        table = self._arrow.Table.from_pylist(self._pending, schema=self._schema)
        part = self.path / f"part-{self._number:06d}.parquet"
        with replacing(part) as temporary:
            self._parquet.write_table(table, temporary)
        self._dirty = False
        if len(self._pending) >= self._rows:
            self._pending, self._number = [], self._number + 1

    def close(self) -> None:
        """Write the part that is not full yet."""
        self.flush()

    def _extend_schema(self) -> bool:
        known = set(self._schema.names)
        new = {name: value for r in self._pending for name, value in r.items() if name not in known}
        for name, value in new.items():
            self._schema = self._schema.append(self._arrow.field(name, self._type(name, value)))
        return bool(new)

    def _type(self, name: str, value: object) -> Any:
        if isinstance(value, str):
            return self._arrow.string()
        return self._arrow.int64() if name in ("step", RUN) else self._arrow.float64()

    def _widen(self) -> None:
        for path in parts(self.path):
            table = self._parquet.read_table(path)
            for name in self._schema.names[table.num_columns :]:
                kind = self._schema.field(name).type
                table = table.append_column(name, self._arrow.nulls(len(table), kind))
            with replacing(path) as temporary:
                self._parquet.write_table(table, temporary)


def parts(path: Path) -> list[Path]:
    """The part files of the directory ``path`` in order."""
    return sorted(path.glob("part-*.parquet"))


def read_parquet(path: Path) -> Iterator[dict[str, float]]:
    """The records of a directory of parts in order, without null values.

    Raises:
        ValueError: a part is damaged, or a record has no step; the message names it.
    """
    for part in parts(path):
        yield from _records(part)


def _records(part: Path) -> Iterator[dict[str, float]]:
    parquet = need("pyarrow.parquet", "Reading a Parquet log")
    with _clean_errors(part):
        rows = parquet.read_table(part).to_pylist()
    for number, row in enumerate(rows, start=1):
        record = {name: value for name, value in row.items() if value is not None}
        check_step(record, f"{part}: row {number}")
        yield record


@contextlib.contextmanager
def _clean_errors(part: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # pyarrow raises errors of its own for a damaged file
        text = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{part}: expected a Parquet file but it cannot be read: {text}. Move it elsewhere."
        ) from error
