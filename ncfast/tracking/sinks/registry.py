"""Which sink a path or a name stands for, and how a log is read back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ncfast.tracking.sinks.csv import CsvSink, read_csv
from ncfast.tracking.sinks.jsonl import JsonlSink, read_jsonl
from ncfast.tracking.sinks.parquet import ParquetSink, read_parquet
from ncfast.tracking.sinks.protocol import CallableSink, Record, Sink
from ncfast.tracking.sinks.tensorboard import TensorBoardSink
from ncfast.tracking.sinks.wandb import WandbSink

_BY_SUFFIX: dict[str, Callable[[Path], Sink]] = {".csv": CsvSink, ".parquet": ParquetSink}
_BY_PREFIX: dict[str, Callable[[str], Sink]] = {
    "tensorboard": TensorBoardSink,
    "wandb": lambda project: WandbSink(project=project or None),
}
_READERS = {".csv": read_csv, ".parquet": read_parquet}


def as_sink(sink: Sink | str | os.PathLike[str] | Callable[[Record], object]) -> Sink:
    """The sink that a path, a name or a callable stands for; a sink as it is.

    A path ending in ``.csv`` is a CSV file, one ending in ``.parquet`` a directory of Parquet
    files, any other path a JSONL file. The string ``"tensorboard:DIR"`` writes event files to DIR,
    ``"wandb:PROJECT"`` opens a run there (of the default project where nothing follows the colon).

    Args:
        sink: one of these, a callable that takes a record, or a sink.

    Raises:
        TypeError: it is none of these.
        ValueError: the path is that of a directory, or of a file where a directory is needed.
        ModuleNotFoundError: the sink needs a package that is not installed.
        OSError: the file cannot be opened.
    """
    if isinstance(sink, str):
        prefix, colon, rest = sink.partition(":")
        if colon and prefix in _BY_PREFIX:
            return _BY_PREFIX[prefix](rest)
    if isinstance(sink, (str, os.PathLike)):
        return _of_path(Path(sink))
    if isinstance(sink, Sink):
        return sink
    if callable(sink):
        return CallableSink(sink)
    raise TypeError(
        "Expected a sink to be a path, a callable or an object with write and close but got "
        f"{type(sink).__name__}."
    )


def _of_path(path: Path) -> Sink:
    wants_directory = path.suffix == ".parquet"
    if path.is_dir() and not wants_directory:
        raise ValueError(
            f"Expected a sink's path to be a file but got the directory {str(path)!r}. Pass "
            f"{str(path / 'metrics.jsonl')!r}, or 'tensorboard:{path}' for event files."
        )
    if path.is_file() and wants_directory:
        raise ValueError(
            f"Expected {str(path)!r} to be a directory of Parquet files, or absent, but got a file."
            " Choose another path."
        )
    return _BY_SUFFIX.get(path.suffix, JsonlSink)(path)


def read_records(path: str | os.PathLike[str]) -> Iterator[dict[str, float]]:
    """The records of a JSONL file, CSV file or Parquet directory in order.

    What a killed process left unfinished is left out.

    Args:
        path: the log; its suffix says the format, as in `as_sink`.

    Raises:
        ValueError: a line of a JSONL file other than the last is no JSON object; it is named.
        OSError: there is no such log.
    """
    found = Path(path)
    return _READERS.get(found.suffix, read_jsonl)(found)
