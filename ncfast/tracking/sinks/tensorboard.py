"""Writes records as scalars for TensorBoard."""

from __future__ import annotations

import json
import os
from typing import Any

from ncfast._optional import need
from ncfast.tracking.sinks.protocol import Header, Record, numbers_of

_PURPOSE = "A TensorBoard sink"
_SUFFIX = ".ncfast"  # the end of the names of this sink's event files


class TensorBoardSink:
    """Writes each record as one event, with a scalar for each key, to an event file.

    TensorBoard groups keys by their first part, such as ``train``, and stores values in float32.
    The header appears under Text. A directory of an earlier run is continued: TensorBoard no longer
    shows its values from the step of the first new record on. If other programs have also written
    event files to the directory, TensorBoard shows all values, because it would hide theirs as
    well.

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
        self._event: Any = need("tensorboard.compat.proto.event_pb2", _PURPOSE)
        log_dir = os.path.expanduser(log_dir)
        self._continues = _only_ours(log_dir)
        self._header: Header | None = None
        self._writer = self._torch.FileWriter(
            log_dir, flush_secs=flush_seconds, filename_suffix=_SUFFIX
        )

    def start(self, header: Header) -> None:
        """Keep the header, which is written as text before the first record."""
        self._header = header

    def write(self, record: Record) -> None:
        """Queue the numbers of a record; a thread of TensorBoard's writer writes them."""
        step = record.get("step")
        if self._continues and step is not None:
            self._hide_from(int(step))
        self._show_header()
        values = [
            self._proto.Summary.Value(tag=name, simple_value=value)
            for name, value in numbers_of(record).items()
        ]
        self._writer.add_summary(self._proto.Summary(value=values), step)

    def flush(self) -> None:
        """Write the queued events."""
        self._writer.flush()

    def close(self) -> None:
        """Write the queued events and close the file."""
        self._show_header()
        self._writer.close()

    def _hide_from(self, step: int) -> None:
        """Hide earlier values from ``step`` on, as ``purge_step`` of torch's SummaryWriter does."""
        started = self._event.SessionLog(status=self._event.SessionLog.START)
        self._writer.add_event(self._event.Event(step=step, file_version="brain.Event:2"))
        self._writer.add_event(self._event.Event(step=step, session_log=started))
        self._continues = False

    def _show_header(self) -> None:
        if self._header is not None:
            text = "    " + json.dumps(self._header, indent=2, default=str).replace("\n", "\n    ")
            self._writer.add_summary(self._torch.summary.text("ncfast header", text))
            self._header = None


def _only_ours(log_dir: str) -> bool:
    """Whether there are event files in the directory, all of them of this sink."""
    names = os.listdir(log_dir) if os.path.isdir(log_dir) else []
    events = [name for name in names if "tfevents" in name]
    return bool(events) and all(name.endswith(_SUFFIX) for name in events)
