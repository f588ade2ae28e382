"""Turns the results of a block into records: values of single steps, and tables of many steps."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast._strict_json import json_line, nonfinite_values, with_nulls
from ncfast.ops import _raw
from ncfast.tracking.sinks import Record


class LogPoint:
    """The single values of one step, as 0-d tensors or numbers by key.

    Attributes:
        step: the step.
        values: the values that the tracker measures.
        logged: the values that the user logs; no key is in both.
    """

    __slots__ = ("logged", "step", "values")

    def __init__(self, step: int) -> None:
        self.step = step
        self.values: dict[str, Tensor | float] = {}
        self.logged: dict[str, Tensor | float] = {}

    def all_values(self) -> dict[str, Tensor | float]:
        """All values by key, those of the tracker first."""
        return {**self.values, **self.logged}


class LeftOut(NamedTuple):
    """The rows that a mask or `ignore_index` left out of the batches of a table."""

    key: str
    numbers: Tensor  # (len(steps), 2) float64: rows that were left out, and the others


class Table(NamedTuple):
    """The results of one layer, with a row for each step."""

    keys: Sequence[str]
    steps: Sequence[int]
    values: Tensor  # (len(steps), len(keys)) float64
    left_out: LeftOut | None = None


class RecordBatch:
    """A block of records in the order of their steps.

    Making it starts the copies to the host. Its methods wait for the copies; the threads that
    write call them.

    Args:
        points: the single values.
        tables: the results of the layers.
    """

    def __init__(self, points: Sequence[LogPoint], tables: Sequence[Table]) -> None:
        self._points, self._tables = points, tables
        scalars = [v for p in points for v in p.all_values().values() if isinstance(v, Tensor)]
        self._cells = _start_copies([table.values for table in tables])
        self._scalars = _start_copies(scalars)
        left_out = [t.left_out.numbers for t in tables if t.left_out is not None]
        self._left_out = _start_copies(left_out)
        self._lock = threading.Lock()
        self._records: list[Record] | None = None

    @cached_property
    def steps(self) -> list[int]:
        """The step of each record."""
        steps = {point.step for point in self._points}
        return sorted(steps.union(*[table.steps for table in self._tables]))

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
        extras = self._extras()
        names = [key for table in self._tables for key in table.keys]
        if not self._are_regular(names, extras) or not hasattr(_raw.extension, "json_lines"):
            return "".join(json_line(record) for record in self).encode()
        shapes = [table.values.shape for table in self._tables]
        cells = _values(self._cells).split([shape.numel() for shape in shapes])
        values = torch.cat([part.view(shape) for part, shape in zip(cells, shapes, strict=True)], 1)
        return _lines_of_table(self.steps, names, values, extras)

    def _are_regular(self, names: list[str], extras: dict[int, dict[str, float]]) -> bool:
        """Whether each table has a row in each record, and no row or key is a special case."""
        same = all(list(table.steps) == self.steps for table in self._tables)
        clash = any(not extra.keys().isdisjoint(names) for extra in extras.values())
        left_out = bool(self._left_out) and bool(_values(self._left_out)[::2].any())
        return bool(self._tables) and same and not clash and not left_out

    def _assemble(self) -> list[Record]:
        records: dict[int, dict[str, float]] = {step: {"step": step} for step in self.steps}
        cells, start = _values(self._cells).tolist(), 0
        numbers = iter(_values(self._left_out).view(-1, 2).tolist())
        for keys, steps, _, of_rows in self._tables:
            for step in steps:
                left_out, rows = (0, 1) if of_rows is None else next(numbers)
                if of_rows is not None and left_out:
                    records[step][of_rows.key] = left_out
                if rows or not left_out:  # a batch with nothing left has no values
                    records[step].update(zip(keys, cells[start : start + len(keys)], strict=True))
                start += len(keys)
        for step, extra in self._extras().items():
            records[step].update(extra)
        return list(records.values())

    def _extras(self) -> dict[int, dict[str, float]]:
        """The single values of each log point, by step."""
        found: dict[int, dict[str, float]] = {point.step: {} for point in self._points}
        cells = [(p.step, key, v) for p in self._points for key, v in p.all_values().items()]
        numbers = _values(self._scalars).tolist()
        tensors = [cell for cell in cells if isinstance(cell[2], Tensor)]
        # strict: a value under another's key would be worse than none
        read = {(step, key): x for (step, key, _), x in zip(tensors, numbers, strict=True)}
        for step, key, value in cells:
            found[step][key] = read[step, key] if isinstance(value, Tensor) else value
        return found


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
    """An asynchronous copy of values to the host; starting it does not synchronise.

    On CUDA the values go to pinned memory on a separate stream, after the work that the current
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
        """The values on the host, (n,) float64; NaN for meta tensors, which have no values."""
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


def _start_copies(tensors: Sequence[Tensor]) -> list[HostCopy]:
    """Copies of the tensors in order, one for each run of tensors of a device and dtype."""
    copies: list[HostCopy] = []
    run: list[Tensor] = []
    for tensor in tensors:
        if run and (run[0].device, run[0].dtype) != (tensor.device, tensor.dtype):
            copies.append(HostCopy(torch.cat(run)))
            run = []
        run.append(tensor.reshape(-1))
    return [*copies, HostCopy(torch.cat(run))] if run else copies


def _values(copies: Sequence[HostCopy]) -> Tensor:
    """The values of all copies, (n,) float64; waits for them."""
    if not copies:
        return torch.empty(0, dtype=torch.float64, device="cpu")
    return torch.cat([copy.wait() for copy in copies])
