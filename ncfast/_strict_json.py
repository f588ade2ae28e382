"""Writes records as strict JSON, which has no NaN and no infinity.

A value that is not finite becomes null, and one string field lists all of them:
``{"step": 3, "train/x": null, "train/y": null, "nonfinite": "train/x=nan train/y=inf"}``.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MOST_BYTES = 1 << 26
NONFINITE = "nonfinite"  # the field that lists NaN and infinities
_WORDS = ("nan", "inf", "-inf")


def parse_object(text: bytes) -> dict[str, Any]:
    """A JSON object that a file from outside holds, in UTF-8.

    Raises:
        ValueError: it is none, or a key is there twice; the message completes "the line ...".

    Example:
        >>> parse_object(b'{"step": 3}')
        {'step': 3}
    """
    try:
        found = json.loads(text.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON object: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(found, dict):
        raise ValueError(f"is no JSON object: {str(found)[:40]!r}")
    return found


def read_object(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file from outside.

    Args:
        path: the file.
        what: what it should be, for the message.

    Raises:
        ValueError: it is something else or cannot be read; the message names the file.
        FileNotFoundError: there is nothing.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device might never end
            raise ValueError("is no regular file")
        if status.st_size > _MOST_BYTES:
            raise ValueError(f"has {status.st_size:,} bytes")
        return parse_object(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path}: expected {what} but {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: expected {what} but the file {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:60]!r} is there twice")
    return found


def json_line(record: Mapping[str, object]) -> str:
    """A record as a line of strict JSON; `restored` undoes it.

    Example:
        >>> json_line({"step": 3, "a": math.nan, "b": 1.0}).rstrip()
        '{"step": 3, "a": null, "b": 1.0, "nonfinite": "a=nan"}'
    """
    found, names = with_nulls(record), nonfinite_values(record)
    return json.dumps(found | {NONFINITE: names} if names else found) + "\n"


def with_nulls(record: Mapping[str, object]) -> dict[str, object]:
    """The record with None for each value that is not finite."""
    return {key: None if _word(value) else value for key, value in record.items()}


def nonfinite_values(record: Mapping[str, object]) -> str:
    """The values that are not finite, as ``key=nan``, ``key=inf`` or ``key=-inf`` with spaces."""
    return " ".join(f"{key}={word}" for key, x in record.items() if (word := _word(x)))


def restored(record: dict[str, Any]) -> dict[str, Any]:
    """A record that was read, with its NaN and infinities again.

    Example:
        >>> restored({"step": 3, "a": None, "nonfinite": "a=-inf"})
        {'step': 3, 'a': -inf}
    """
    names = record.pop(NONFINITE, None)
    missing = [key for key, value in record.items() if value is None] if names else []
    rest = f" {names} "
    for key in sorted(missing, key=len, reverse=True):  # a key may hold spaces and other keys
        for word in _WORDS:
            if f" {key}={word} " in rest:
                rest = rest.replace(f" {key}={word} ", " ", 1)
                record[key] = float(word)
                break
    return record


def _word(value: object) -> str:
    """The word for a value that is not finite; empty for any other."""
    if not isinstance(value, float) or math.isfinite(value):
        return ""
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
