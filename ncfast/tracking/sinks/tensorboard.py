"""Writes records as scalars for TensorBoard."""

from __future__ import annotations

import json
import os
from typing import Any

from ncfast._optional import need
from ncfast.tracking.sinks.protocol import Header, Record, numbers_of

_PURPOSE = "A TensorBoard sink"


class TensorBoardSink:
    """Writes each record as one event, with a scalar for each key, to an event file.

    TensorBoard groups keys by their first part, such as ``train``, and stores values in float32.
    The header appears under Text.

    Args:
        log_dir: the directory for ``tensorboard --logdir``, or one below it.
        flush_seconds: the longest time that an event waits in memory.

    Raises:
        ModuleNotFoundError: tensorboard is not installed.
        OSError: the directory cannot be written.
    """

    def __init__(self, log_dir: str | os.PathLike[str], *, flush_seconds: int = 10) -> None:
        need("tensorboard", _PURPOSE)
        # FileWriter takes many scalars in one event; SummaryWriter makes an event for each
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
