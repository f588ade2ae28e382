"""What a sink is."""

from __future__ import annotations

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
    """A sink around a function, such as ``records.append``."""

    def __init__(self, function: Callable[[Record], object]) -> None:
        self._function = function

    def write(self, record: Record) -> None:
        """Call the function."""
        self._function(record)

    def close(self) -> None:
        """Nothing to release."""
