"""Finds the sink that a path or a name means, and reads logs."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ncfast.tracking.sinks.csv import CsvSink, read_csv
from ncfast.tracking.sinks.files import last_of_each_step
from ncfast.tracking.sinks.jsonl import JsonlSink, read_jsonl
from ncfast.tracking.sinks.mlflow import MlflowSink
from ncfast.tracking.sinks.parquet import ParquetSink, read_parquet
from ncfast.tracking.sinks.protocol import CallableSink, Header, Sink
from ncfast.tracking.sinks.tensorboard import TensorBoardSink
from ncfast.tracking.sinks.trackio import TrackioSink
from ncfast.tracking.sinks.wandb import WandbSink

_BY_SUFFIX: dict[str, Callable[[Path], Sink]] = {".csv": CsvSink, ".parquet": ParquetSink}
_BY_PREFIX: dict[str, tuple[str, Callable[[str], Sink]]] = {
    "tensorboard": ("DIR", TensorBoardSink),
    "wandb": ("PROJECT", lambda project: WandbSink(project=project or None)),
    "mlflow": ("EXPERIMENT", lambda experiment: MlflowSink(experiment or None)),
    "trackio": ("PROJECT", lambda project: TrackioSink(project=project)),
}
_NEEDS_NAME = ("tensorboard", "trackio")
_READERS = {".csv": read_csv, ".parquet": read_parquet}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4")
_OTHER_FORMATS = (
    *(".tsv", ".xls", ".xlsx", ".ods", ".pq", ".arrow", ".feather", ".orc", ".avro", ".h5"),
    *(".hdf5", ".nc", ".zarr", ".db", ".sqlite", ".duckdb", ".pkl", ".pickle", ".pt", ".pth"),
    *(".npy", ".npz", ".mat", ".html", ".xml", ".yaml", ".yml", ".toml", ".pdf", ".png"),
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_NAMED = re.compile(r"\s*[A-Za-z][\w+.-]+\s*:")  # one letter alone is a drive of Windows


def as_sink(sink: Sink | str | os.PathLike[str] | Callable[..., object]) -> Sink:
    """The sink that a path, a name or a callable means; a sink is returned unchanged.

    A path ending in ``.csv`` is a CSV file, and one ending in ``.parquet`` a directory of Parquet
    files, in upper case too; any other path is a JSONL file. ``~`` is the home directory. The
    string ``"tensorboard:DIR"`` writes event files to DIR. ``"wandb:PROJECT"`` and
    ``"trackio:PROJECT"`` make a run there (``"wandb:"`` in W&B's default project).
    ``"mlflow:EXPERIMENT"`` logs to the active run of that experiment, or to a new run.

    Args:
        sink: one of these, a callable that takes a record (see `CallableSink`), or a sink. A run of
            Weights & Biases, or its method ``log``, means a `WandbSink` of the run.

    Raises:
        TypeError: it is none of these.
        ValueError: the name is unknown; the path is a URL, has spaces at its ends or the suffix of
            another format, is a directory, or is a file where a directory is needed.
        ModuleNotFoundError: the sink needs a package that is not installed.
        OSError: the file cannot be opened.
    """
    if isinstance(sink, str) and (named := _of_name(sink)) is not None:
        return named
    if isinstance(sink, (str, os.PathLike)):
        return _of_path(sink)
    run = getattr(sink, "__self__", sink) if getattr(sink, "__name__", "log") == "log" else None
    if type(run).__module__.startswith("wandb.") and type(run).__name__ == "Run":
        return WandbSink(run)
    if isinstance(sink, Sink):
        return sink
    if callable(sink):
        return CallableSink(sink)
    raise TypeError(
        "Expected a sink to be a path, a callable or an object with write and close but got "
        f"{type(sink).__name__}."
    )


def listed(sinks: Any) -> list[Any]:
    """The argument ``sinks=`` as a list; a single path, name, function or sink becomes one.

    Raises:
        TypeError: it is none of these and no iterable.
    """
    if isinstance(sinks, (str, os.PathLike, Sink)) or callable(sinks):
        return [sinks]
    if not isinstance(sinks, Iterable):
        raise TypeError(
            "Expected argument `sinks` to be a sink or a list of sinks but got "
            f"{type(sinks).__name__}. Pass a path, a callable or an object with write and close."
        )
    return list(sinks)


def open_sinks(sinks: Any, undo: contextlib.ExitStack, header: Header) -> list[Sink]:
    """The sinks for the argument ``sinks=``; ``undo`` closes those that are opened here.

    Raises:
        ValueError: a log that is continued was written with another header.
    """
    opened = []
    for given in listed(sinks):
        sink = as_sink(given)
        if sink is not given:
            undo.callback(sink.close)
        if hasattr(sink, "continue_log"):
            sink.continue_log(header)
        opened.append(sink)
    return opened


def _of_name(text: str) -> Sink | None:
    """The sink of ``"prefix:rest"``; None for a path."""
    prefix, colon, rest = (part.strip() for part in text.partition(":"))
    if prefix in _BY_PREFIX:
        if not colon or (prefix in _NEEDS_NAME and not rest):
            raise ValueError(
                f"Expected something after the name of a sink but got {text!r}. Write "
                f"'{prefix}:{_BY_PREFIX[prefix][0]}', or './{text}' for a file."
            )
        if text != f"{prefix}:{rest}":
            raise ValueError(
                f"Expected the name of a sink without spaces around it but got {text!r}. Write "
                f"'{prefix}:{rest}', or './{text}' for a file."
            )
        return _BY_PREFIX[prefix][1](rest)
    if _NAMED.match(text) and not _URL.match(text):
        raise ValueError(
            f"Expected the name of a sink before the colon but got {text!r}. Known names: "
            f"{_known()}. The suffix of a path says its format: runs/a/metrics.csv. Write "
            f"'./{text}' if this is the name of a file."
        )
    return None


def _known() -> str:
    return ", ".join(f"{prefix}:{what}" for prefix, (what, _) in _BY_PREFIX.items())


def _of_path(given: str | os.PathLike[str]) -> Sink:
    path = _checked(given)
    wants_directory = path.suffix.lower() == ".parquet"
    is_directory = path.is_dir() or os.fspath(given).endswith(("/", os.sep))
    if is_directory and not wants_directory:
        raise ValueError(
            f"Expected a sink's path to be a file but got the directory {str(path)!r}. Pass "
            f"{str(path / 'metrics.jsonl')!r}, or 'tensorboard:{path}' for event files."
        )
    if path.is_file() and wants_directory:
        raise ValueError(
            f"Expected {str(path)!r} to be a directory of Parquet files, or absent, but got a file."
            " Choose another path."
        )
    return _BY_SUFFIX.get(path.suffix.lower(), JsonlSink)(path)


def _checked(given: str | os.PathLike[str]) -> Path:
    """The path, if it is on this machine and of a known format."""
    text = os.fspath(given)
    if isinstance(given, str) and text != text.strip():
        raise ValueError(
            f"Expected a path without spaces at its ends but got {text!r}. Write {text.strip()!r}, "
            "or pass a pathlib.Path for a file of that name."
        )
    if _URL.match(text):
        raise ValueError(
            f"Expected a path on this machine but got the URL {text!r}. Write to a local path and "
            f"copy the log there, or pass a function. Names of sinks: {_known()}."
        )
    path = Path(text).expanduser()
    suffix = path.suffix.lower()
    if suffix in _COMPRESSED:
        raise ValueError(
            f"Expected the path of a log that is not compressed but got {text!r}. Write "
            f"{path.stem!r} and compress it afterwards, or a directory metrics.parquet, whose "
            "files are compressed."
        )
    if suffix in _OTHER_FORMATS:
        raise ValueError(
            f"Expected a path that ends in .jsonl, .csv or .parquet but got {text!r}. Other "
            "formats are not written."
        )
    return path


def read_records(
    path: str | os.PathLike[str],
    *,
    all: bool = False,
) -> Iterator[dict[str, float]]:
    """The records of a JSONL file, CSV file or Parquet directory.

    A last line that a killed process left unfinished is left out. A record of a tracker has the
    number of its run, "tracker/run": the first tracker that opened the log is run 1. Records of
    version 0.1 have no such number.

    Args:
        path: the log; its suffix gives the format, as in `as_sink`.
        all: return every record, in the order of the file. Otherwise return the last record of each
            step, in the order of the steps: a resumed training writes some steps again.

    Raises:
        ValueError: a line other than an unfinished last one is no record; the message names the
            file and the line. Or the path is a URL, or has the suffix of another format.
        OSError: there is no such log.
    """
    found = _checked(path)
    records = _READERS.get(found.suffix.lower(), read_jsonl)(found)
    return records if all else last_of_each_step(records)
