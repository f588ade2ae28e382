"""The sinks of a tracker: files, experiment trackers, and functions that take records.

A sink has ``write(record)`` and ``close()``; ``start(header)``, ``flush()`` and
``write_block(records)`` are optional (see `Sink`).
"""

from ncfast.tracking.sinks.csv import CsvSink
from ncfast.tracking.sinks.jsonl import JsonlSink
from ncfast.tracking.sinks.mlflow import MlflowSink
from ncfast.tracking.sinks.parquet import ParquetSink
from ncfast.tracking.sinks.protocol import CallableSink, Header, Record, Records, Sink
from ncfast.tracking.sinks.registry import as_sink, listed, read_records
from ncfast.tracking.sinks.tensorboard import TensorBoardSink
from ncfast.tracking.sinks.trackio import TrackioSink
from ncfast.tracking.sinks.wandb import WandbSink

__all__ = [
    "CallableSink",
    "CsvSink",
    "Header",
    "JsonlSink",
    "MlflowSink",
    "ParquetSink",
    "Record",
    "Records",
    "Sink",
    "TensorBoardSink",
    "TrackioSink",
    "WandbSink",
    "as_sink",
    "listed",
    "read_records",
]
