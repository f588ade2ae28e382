"""Records on their way from the device to the sinks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast.ops import _raw
from ncfast.tracking.sinks import Record
from ncfast.tracking.sinks.strict_json import json_line, listed, strict


class LogPoint:
    """Single values of one step that are not written yet.

    Attributes:
        step: the step.
        values: what the tracker measures, 0-d tensors and numbers by key.
        logged: what the user logs, likewise; no key is in both.
    """

    __slots__ = ("logged", "step", "values")

    def __init__(self, step: int) -> None:
        self.step = step
        self.values: dict[str, Tensor | float] = {}
        self.logged: dict[str, Tensor | float] = {}

    def all_values(self) -> Iterator[tuple[str, Tensor | float]]:
        """Keys and values, those of the tracker first."""
        yield from self.values.items()
        yield from self.logged.items()


class Table(NamedTuple):
    """Results of one layer, a row a log point."""

    keys: Sequence[str]
    steps: Sequence[int]
    values: Tensor  # (len(steps), len(keys)) float64


class RecordBatch:
    """Records of log points in the order of their steps, complete once they are on the host.

    Its methods wait for the copies; they are called from the threads that write.

    Args:
        points: single values.
        tables: results of the layers.
    """

    def __init__(self, points: Sequence[LogPoint], tables: Sequence[Table]) -> None:
        self._points, self._tables = points, tables
        scalars = [v for p in points for _, v in p.all_values() if isinstance(v, Tensor)]
        self._copies = [_send([table.values for table in tables]), _send(scalars)]
        self._lock = threading.Lock()
        self._records: list[Record] | None = None

    @property
    def steps(self) -> list[int]:
        """The step of each record."""
        found = {step for table in self._tables for step in table.steps}
        return sorted(found.union(point.step for point in self._points))

    def __iter__(self) -> Iterator[Record]:
        """The records."""
        with self._lock:
            if self._records is None:
                self._records = self._assemble()
        return iter(self._records)

    def json_lines(self) -> bytes:
        """The records as lines of JSON, the same bytes as `json_line` gives.

        Where all tables have the same steps, as in a steady loop, the extension writes the lines,
        and training keeps the interpreter.
        """
        fast = getattr(_raw.extension, "json_lines", None)
        steps = self.steps
        extras = dict(self._extras())
        names = [key for table in self._tables for key in table.keys]
        clash = any(not extra.keys().isdisjoint(names) for extra in extras.values())
        apart = any(list(table.steps) != steps for table in self._tables)
        if fast is None or not self._tables or apart or clash:
            return "".join(json_line(record) for record in self).encode()
        shapes = [(len(steps), len(table.keys)) for table in self._tables]
        cells = _joined(self._copies[0]).split([rows * columns for rows, columns in shapes])
        values = torch.cat([part.view(shape) for part, shape in zip(cells, shapes, strict=True)], 1)
        numbers = torch.tensor(steps, device="cpu")
        tails = {step: json.dumps(strict(extra))[1:-1] for step, extra in extras.items()}
        notes = {step: json.dumps(listed(extra))[1:-1] for step, extra in extras.items()}
        found: bytes = fast(
            numbers.data_ptr(),
            values.data_ptr(),
            *values.shape,
            [json.dumps(name) for name in names],
            [tails.get(step, "") for step in steps],
            [notes.get(step, "") for step in steps],
        )
        return found

    def _assemble(self) -> list[Record]:
        records: dict[int, dict[str, float]] = {step: {"step": step} for step in self.steps}
        cells, start = _joined(self._copies[0]).tolist(), 0
        for keys, steps, _ in self._tables:
            for step in steps:
                records[step].update(zip(keys, cells[start : start + len(keys)], strict=True))
                start += len(keys)
        for step, extra in self._extras():
            records[step].update(extra)
        return list(records.values())

    def _extras(self) -> Iterator[tuple[int, dict[str, float]]]:
        cells = [(p.step, key, v) for p in self._points for key, v in p.all_values()]
        known = _joined(self._copies[1]).tolist()
        found: dict[int, dict[str, float]] = {point.step: {} for point in self._points}
        # a value in another's place would be worse than none: the numbers must agree
        tensors = [cell for cell in cells if isinstance(cell[2], Tensor)]
        read = {(step, key): x for (step, key, _), x in zip(tensors, known, strict=True)}
        for step, key, value in cells:
            found[step][key] = read[step, key] if isinstance(value, Tensor) else value
        return iter(found.items())


def _send(tensors: Sequence[Tensor]) -> list[HostCopy]:
    """One copy for each run of tensors that share a device and dtype."""
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


class HostCopy:
    """Values on their way to the host; making it does not synchronise.

    On CUDA the copy goes into pinned memory on a stream of its own, behind what the current stream
    has queued; training that is queued afterwards does not wait for it.

    Args:
        values: one axis.
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
        values.record_stream(side)  # its memory must not be reused before the copy is over
        return host

    def wait(self) -> Tensor:
        """The values in the host's memory, float64; waits for the copy if it is under way."""
        if self._event is not None:
            self._event.synchronize()
        return self._values.to(device="cpu", dtype=torch.float64)


_side_streams: dict[torch.device, torch.cuda.Stream] = {}


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    if device not in _side_streams:
        _side_streams[device] = torch.cuda.Stream(device)
    return _side_streams[device]
