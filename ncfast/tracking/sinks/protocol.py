"""The protocol of a sink, and a sink around a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

Record = Mapping[str, float]
Header = Mapping[str, object]


@runtime_checkable
class Sink(Protocol):
    """Takes complete records one at a time, in order, from one thread.

    Four more methods are optional:

    - ``continue_log(header)``: called by the thread that makes the tracker. It raises ValueError
      if there is a log that was written with another header.
    - ``start(header)``: called once before the first record. The header has the versions, the
      conventions and the definitions of the metrics.
    - ``write_block(records)``: called instead of ``write``, with many records at once; see
      `Records`.
    - ``flush()``: every record so far must survive a killed process afterwards.
    """

    def write(self, record: Record) -> None:
        """Take a record. The sink may keep it, and must not change it."""

    def close(self) -> None:
        """Release resources. `write` is not called afterwards."""


class Records(Protocol):
    """Records of consecutive log points."""

    @property
    def steps(self) -> Sequence[int]:
        """The step of each record."""

    def __iter__(self) -> Iterator[Record]:
        """Iterate over the records."""

    def json_lines(self) -> bytes:
        """All records, each as a line of JSON."""


class CallableSink:
    """A sink that calls a function, such as ``records.append``.

    If the second or a later parameter of the function is ``step``, as in ``mlflow.log_metrics`` and
    ``trackio.log``, it gets the step there and the other numbers of the record as its first
    argument. Any other function gets the record.

    Args:
        function: called once for each record.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        self._function, self._takes_step = function, _takes_step(function)

    def write(self, record: Record) -> None:
        """Call the function."""
        if self._takes_step:
            self._function(numbers_of(record), step=record["step"])
        else:
            self._function(record)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def numbers_of(record: Record) -> dict[str, float]:
    """The numbers of a record by key, without its step."""
    return {k: v for k, v in record.items() if k != "step" and isinstance(v, (int, float))}


def _takes_step(function: Callable[..., object]) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False
    return "step" in parameters[1:]
