"""A block of records on its way from the device to the sinks."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast.tracking.sinks import Record
from ncfast.tracking.transfer import HostCopy


class LogPoint:
    """What was measured at one step and is not written yet.

    Attributes:
        step: the step.
        values: 0-d tensors and numbers by key.
        rows: table and row of results that are evaluated in blocks.
    """

    __slots__ = ("rows", "step", "values")

    def __init__(self, step: int) -> None:
        self.step = step
        self.values: dict[str, Tensor | float] = {}
        self.rows: list[tuple[int, int]] = []


class Table(NamedTuple):
    """Results of one layer at consecutive log points."""

    keys: Sequence[str]
    values: Tensor  # (n, len(keys)) float64


class Block:
    """Records of consecutive log points, complete once their values have reached the host.

    Args:
        points: the log points, oldest first.
        tables: results by the number that `LogPoint.rows` refers to.
    """

    def __init__(self, points: Sequence[LogPoint], tables: dict[int, Table]) -> None:
        self._points = points
        self._keys = {number: table.keys for number, table in tables.items()}
        scalars = [v for p in points for v in p.values.values() if isinstance(v, Tensor)]
        self._copies = [
            _send([table.values for table in tables.values()]),
            _send(scalars),
        ]
        self._offsets = _offsets(tables)
        self._lock = threading.Lock()
        self._records: list[Record] | None = None

    def records(self) -> list[Record]:
        """The records; waits for the copies. Called from the threads that write."""
        with self._lock:
            if self._records is None:
                self._records = self._assemble()
            return self._records

    def _assemble(self) -> list[Record]:
        cells, scalars = (list(_receive(copies)) for copies in self._copies)
        remaining = iter(scalars)
        records: list[Record] = []
        for point in self._points:
            record: dict[str, float] = {"step": point.step}
            for table, row in point.rows:
                keys = self._keys.get(table, ())
                start = self._offsets.get(table, 0) + row * len(keys)
                record.update(zip(keys, cells[start : start + len(keys)], strict=True))
            for key, value in point.values.items():
                record[key] = next(remaining) if isinstance(value, Tensor) else value
            records.append(record)
        return records


def _offsets(tables: dict[int, Table]) -> dict[int, int]:
    offsets, start = {}, 0
    for number, table in tables.items():
        offsets[number] = start
        start += table.values.numel()
    return offsets


def _send(tensors: Sequence[Tensor]) -> list[HostCopy]:
    """One copy for each run of tensors that share a device."""
    copies: list[HostCopy] = []
    run: list[Tensor] = []
    for tensor in tensors:
        if run and run[0].device != tensor.device:
            copies.append(HostCopy(torch.cat(run)))
            run = []
        run.append(tensor.reshape(-1))
    return [*copies, HostCopy(torch.cat(run))] if run else copies


def _receive(copies: Iterable[HostCopy]) -> Iterable[float]:
    for copy in copies:
        yield from copy.wait()
