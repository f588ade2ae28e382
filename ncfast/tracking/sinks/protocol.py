"""What a sink is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

Record = Mapping[str, float]
Header = Mapping[str, object]


@runtime_checkable
class Sink(Protocol):
    """Takes finished records, one at a time, in order, from one thread.

    Three more methods are called where a sink has them: ``start(header)``, once and before the
    first record, with versions, conventions and definitions of the metrics; ``flush()``, after
    which every record so far must survive a killed process; and ``write_block(records)`` in place
    of ``write``, with many records at once: see `Records`.
    """

    def write(self, record: Record) -> None:
        """Take a record; may keep it, must not change it."""

    def close(self) -> None:
        """Finish; nothing is written afterwards."""


class Records(Protocol):
    """Records of consecutive log points."""

    @property
    def steps(self) -> Sequence[int]:
        """The step of each record."""

    def __iter__(self) -> Iterator[Record]:
        """One record after another."""

    def json_lines(self) -> bytes:
        """All of them, a line of JSON each."""


class CallableSink:
    """A sink around a function, such as ``records.append``.

    A function whose further parameters include ``step``, such as ``mlflow.log_metrics`` and
    ``trackio.log``, gets the step there, and the other numbers of the record as its first argument.
    Any other function gets the record.

    Args:
        function: called once a record.
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
        """Nothing to release."""


def numbers_of(record: Record) -> dict[str, float]:
    """The numbers of a record by key, without its step."""
    return {k: v for k, v in record.items() if k != "step" and isinstance(v, (int, float))}


def _takes_step(function: Callable[..., object]) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # of some built-in functions nothing is known
        return False
    return "step" in parameters[1:]
