"""Turns log points and tables of results into records, after one copy from the device."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast._strict_json import json_line, nonfinite_values, with_nulls
from ncfast.ops import _raw
from ncfast.tracking.sinks import Record


class LogPoint:
    """The single values of one step that are not sent yet.

    Attributes:
        step: the step.
        values: what the tracker measures: 0-d tensors and numbers by key.
        logged: what the user logs, likewise; no key is in both.
    """

    __slots__ = ("logged", "step", "values")

    def __init__(self, step: int) -> None:
        self.step = step
        self.values: dict[str, Tensor | float] = {}
        self.logged: dict[str, Tensor | float] = {}

    def all_values(self) -> Iterator[tuple[str, Tensor | float]]:
        """All keys and values, those of the tracker first."""
        yield from self.values.items()
        yield from self.logged.items()


class LeftOut(NamedTuple):
    """The rows that a mask or `ignore_index` left out of the batches of a table."""

    key: str
    numbers: Tensor  # (len(steps), 2) float64: rows that were left out, and rows that were not


class Table(NamedTuple):
    """The results of one layer, with a row for each log point."""

    keys: Sequence[str]
    steps: Sequence[int]
    values: Tensor  # (len(steps), len(keys)) float64
    left_out: LeftOut | None = None


class RecordBatch:
    """A block of records in the order of their steps.

    Making it starts the copies to the host; its methods wait for them, and are called from the
    threads that write.

    Args:
        points: the single values.
        tables: the results of the layers.
    """

    def __init__(self, points: Sequence[LogPoint], tables: Sequence[Table]) -> None:
        self._points, self._tables = points, tables
        scalars = [v for p in points for _, v in p.all_values() if isinstance(v, Tensor)]
        numbers = [table.left_out.numbers for table in tables if table.left_out is not None]
        self._copies = [_send([t.values for t in tables]), _send(scalars), _send(numbers)]
        self._lock = threading.Lock()
        self._records: list[Record] | None = None

    @property
    def steps(self) -> list[int]:
        """The step of each record."""
        found = {step for table in self._tables for step in table.steps}
        return sorted(found.union(point.step for point in self._points))

    def __iter__(self) -> Iterator[Record]:
        """Iterate over the records."""
        with self._lock:
            if self._records is None:
                self._records = self._assemble()
        return iter(self._records)

    def json_lines(self) -> bytes:
        """The records as lines of JSON, with the bytes that `json_line` gives.

        If all tables have the same steps, as in a steady loop, the extension writes the lines
        without holding up the interpreter.
        """
        steps, extras = self.steps, dict(self._extras())
        names = [key for table in self._tables for key in table.keys]
        clash = any(not extra.keys().isdisjoint(names) for extra in extras.values())
        differ = any(list(table.steps) != steps for table in self._tables)
        leaves_out = any(number for rows in self._numbers() for number, _ in rows)
        unusual = differ or clash or leaves_out or not self._tables
        if unusual or not hasattr(_raw.extension, "json_lines"):
            return "".join(json_line(record) for record in self).encode()
        shapes = [(len(steps), len(table.keys)) for table in self._tables]
        cells = _joined(self._copies[0]).split([rows * columns for rows, columns in shapes])
        values = torch.cat([part.view(shape) for part, shape in zip(cells, shapes, strict=True)], 1)
        return _lines_of_table(steps, names, values, extras)

    def _assemble(self) -> list[Record]:
        records: dict[int, dict[str, float]] = {step: {"step": step} for step in self.steps}
        cells, start = _joined(self._copies[0]).tolist(), 0
        for table, numbers in zip(self._tables, self._numbers(), strict=True):
            keys = table.keys
            for step, (left_out, rows) in zip(table.steps, numbers, strict=True):
                if left_out and table.left_out is not None:
                    records[step][table.left_out.key] = left_out
                if rows or not left_out:  # of a batch with nothing left there is nothing to say
                    records[step].update(zip(keys, cells[start : start + len(keys)], strict=True))
                start += len(keys)
        for step, extra in self._extras():
            records[step].update(extra)
        return list(records.values())

    def _numbers(self) -> list[list[tuple[float, float]]]:
        """For each row of each table the rows that were left out, and those that were not."""
        cells = iter(_joined(self._copies[2]).view(-1, 2).tolist())
        return [
            [next(cells) if table.left_out is not None else (0.0, 0.0) for _ in table.steps]
            for table in self._tables
        ]

    def _extras(self) -> Iterator[tuple[int, dict[str, float]]]:
        """The single values of each log point."""
        cells = [(p.step, key, v) for p in self._points for key, v in p.all_values()]
        known = _joined(self._copies[1]).tolist()
        found: dict[int, dict[str, float]] = {point.step: {} for point in self._points}
        # strict: a value under another's key would be worse than none
        tensors = [cell for cell in cells if isinstance(cell[2], Tensor)]
        read = {(step, key): x for (step, key, _), x in zip(tensors, known, strict=True)}
        for step, key, value in cells:
            found[step][key] = read[step, key] if isinstance(value, Tensor) else value
        return iter(found.items())


def _lines_of_table(
    steps: list[int], names: list[str], values: Tensor, extras: dict[int, dict[str, float]]
) -> bytes:
    """Lines of JSON by the extension.

    Args:
        steps: the step of each line.
        names: the key of each column.
        values: (len(steps), len(names)) float64 on the CPU, contiguous.
        extras: further values of some steps.
    """
    numbers = torch.tensor(steps, device="cpu")
    tails = {step: json.dumps(with_nulls(extra))[1:-1] for step, extra in extras.items()}
    notes = {step: json.dumps(nonfinite_values(extra))[1:-1] for step, extra in extras.items()}
    lines: bytes = _raw.loaded().json_lines(
        numbers.data_ptr(),
        values.data_ptr(),
        *values.shape,
        [json.dumps(name) for name in names],
        [tails.get(step, "") for step in steps],
        [notes.get(step, "") for step in steps],
    )
    return lines


class HostCopy:
    """An asynchronous copy of values to the host; making it does not synchronise.

    On CUDA the values go to pinned memory on a stream of their own, after the work that the current
    stream has queued. Training that is queued later does not wait for the copy.

    Args:
        values: (n,) of any real dtype.
    """

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._values = values if values.device.type != "cuda" else self._start(values)

    def _start(self, values: Tensor) -> Tensor:
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        side = _side_stream(values.device)
        side.wait_stream(torch.cuda.current_stream(values.device))
        with torch.cuda.stream(side):
            host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(side)
        values.record_stream(side)  # keeps their memory until the copy is complete
        return host

    def wait(self) -> Tensor:
        """The values on the host, (n,) float64; those of meta tensors, which have none, are NaN."""
        if self._event is not None:
            self._event.synchronize()
        if self._values.is_meta:
            return torch.full(self._values.shape, torch.nan, dtype=torch.float64, device="cpu")
        return self._values.cpu().to(torch.float64)  # in this order: MPS has no float64


_side_streams: dict[torch.device, torch.cuda.Stream] = {}


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    if device not in _side_streams:
        _side_streams[device] = torch.cuda.Stream(device)
    return _side_streams[device]


def _send(tensors: Sequence[Tensor]) -> list[HostCopy]:
    """Copies of the tensors in order, one for each run of the same device and dtype."""
    copies: list[HostCopy] = []
    run: list[Tensor] = []
    for tensor in tensors:
        if run and (run[0].device, run[0].dtype) != (tensor.device, tensor.dtype):
            copies.append(HostCopy(torch.cat(run)))
            run = []
        run.append(tensor.reshape(-1))
    return [*copies, HostCopy(torch.cat(run))] if run else copies


def _joined(copies: Iterable[HostCopy]) -> Tensor:
    values = [copy.wait() for copy in copies]
    return torch.cat(values) if values else torch.empty(0, dtype=torch.float64)
