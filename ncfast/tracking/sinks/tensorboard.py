"""Scalars for TensorBoard."""

from __future__ import annotations

import json
import os
from typing import Any

from ncfast._optional import need
from ncfast.tracking.sinks.protocol import Header, Record, numbers_of

_PURPOSE = "A TensorBoard sink"


class TensorBoardSink:
    """Writes a record as one event with a scalar a key, in an event file of ``log_dir``.

    TensorBoard groups keys by their first part, ``train`` or ``test``. It stores values in float32.
    The header appears under Text.

    Args:
        log_dir: the directory that ``tensorboard --logdir`` is given, or one below it.
        flush_seconds: how long an event may wait in memory.

    Raises:
        ModuleNotFoundError: tensorboard is not installed.
        OSError: the directory cannot be written.
    """

    def __init__(self, log_dir: str | os.PathLike[str], *, flush_seconds: int = 10) -> None:
        need("tensorboard", _PURPOSE)
        # its FileWriter takes many scalars at once; SummaryWriter makes an event of each
        self._torch: Any = need("torch.utils.tensorboard", _PURPOSE)
        self._proto: Any = need("tensorboard.compat.proto.summary_pb2", _PURPOSE)
        self._writer = self._torch.FileWriter(os.path.expanduser(log_dir), flush_secs=flush_seconds)

    def start(self, header: Header) -> None:
        """Show the header as text."""
        text = "    " + json.dumps(header, indent=2, default=str).replace("\n", "\n    ")
        self._writer.add_summary(self._torch.summary.text("ncfast header", text))

    def write(self, record: Record) -> None:
        """Queue the numbers of a record; the writer's own thread writes them."""
        values = [
            self._proto.Summary.Value(tag=name, simple_value=value)
            for name, value in numbers_of(record).items()
        ]
        self._writer.add_summary(self._proto.Summary(value=values), record.get("step"))

    def flush(self) -> None:
        """Write the queued events."""
        self._writer.flush()

    def close(self) -> None:
        """Write the queued events and close the file."""
        self._writer.close()
