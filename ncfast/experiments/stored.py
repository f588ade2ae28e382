"""Reads what a run's directory holds. Each fault is an error of one line: file, entry, remedy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ncfast import _strict_json
from ncfast.experiments.config import Recipe, stored_settings
from ncfast.tracking.sinks import read_records

REMEDY = "Restore the file, or start again in another directory."
Settings = TypeVar("Settings", bound=Recipe)


class RunDirectoryError(RuntimeError):
    """The output directory cannot be used for this run; the message names the remedy."""


def bad_entry(path: Path, entry: str, expected: str, got: object) -> RunDirectoryError:
    """The error for an entry of a file."""
    return RunDirectoryError(
        f"{path}: expected {entry} to be {expected} but got {shown(repr(got))}. {REMEDY}"
    )


def shown(value: object) -> str:
    """A value in a message: one line of at most 80 characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def bad_file(path: Path, expected: str, got: object) -> RunDirectoryError:
    """The error for a whole file; ``got`` may be an exception of any kind."""
    text = got.strerror if isinstance(got, OSError) and got.strerror else str(got)
    return RunDirectoryError(f"{path}: expected {expected} but {' '.join(text.split())}. {REMEDY}")


def check_file(path: Path, expected: str) -> None:
    """Check that ``path`` is a regular file; reading a device or a pipe might never end.

    Raises:
        RunDirectoryError: it is something else.
        FileNotFoundError: there is nothing.
    """
    try:
        path.stat()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise bad_file(path, expected, error) from error
    if not path.is_file():
        raise bad_file(path, expected, "it is no regular file")


def read_object(path: Path, expected: str) -> dict[str, Any]:
    """The JSON object in a file of settings.

    Args:
        path: the file.
        expected: what the file should hold, for the messages.

    Raises:
        RunDirectoryError: the file cannot be read, or holds no JSON object.
        FileNotFoundError: there is nothing.
    """
    try:
        found = _strict_json.read_object(path, expected)
        json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair has no bytes
    except UnicodeEncodeError as error:
        raise bad_file(path, expected, f"it holds half of a character: {error}") from error
    except ValueError as error:
        raise RunDirectoryError(f"{error}. {REMEDY}") from error
    return found


def read_settings(kind: type[Settings], path: Path, content: Mapping[str, Any]) -> Settings:
    """The entry "settings" of config.json or sweep.json.

    Args:
        kind: `TrainConfig` or `SweepConfig`.
        path: the file; its folder becomes ``out``.
        content: the content of the file.

    Raises:
        RunDirectoryError: the entry is missing, or a setting has the wrong type or value.
    """
    settings = content.get("settings")
    if not isinstance(settings, dict):
        raise bad_entry(path, "'settings'", "an object", settings)
    try:
        found = kind(**{**stored_settings(kind, settings), "out": path.parent})
        found.schedules()
    except ValueError as error:
        text = " ".join(str(error).split())[:300].rstrip(".")
        raise RunDirectoryError(f"{path}: entry 'settings': {text}. {REMEDY}") from error
    return found


def check_texts(path: Path, name: str, value: object) -> None:
    """Check that an entry is an object whose values are texts.

    Raises:
        RunDirectoryError: it is none.
    """
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise bad_entry(path, repr(name), "an object of texts", value)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log, in the order of the steps.

    Raises:
        RunDirectoryError: the file cannot be read, or a line is no record.
        FileNotFoundError: there is nothing.
    """
    expected = "a log of records, one JSON object per line,"
    check_file(path, expected)
    try:
        records = list(read_records(path))
    except OSError as error:
        raise bad_file(path, expected, error) from error
    except ValueError as error:
        raise RunDirectoryError(" ".join(str(error).split())) from error
    for record in records:
        if not 0 <= record["step"] < 2**53:
            raise bad_entry(path, "'step'", "0 or more, and below 2^53,", record["step"])
    return records


def read_numbers(path: Path) -> list[dict[str, float]]:
    """The records of a log whose values are all numbers; otherwise as `read_log`."""
    records = read_log(path)
    for record in records:
        for key, value in record.items():
            if type(value) is not float and not (type(value) is int and abs(value) < 2**63):
                entry = f"{key[:80]!r} at step {record['step']}"
                raise bad_entry(path, entry, "a number", value)
    return records
