"""Numbers the runs in one log: a tracker that continues a log must measure what the log holds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ncfast._strict_json import read_object
from ncfast.tracking.keys import RUN
from ncfast.tracking.sinks.files import end_of_last_line, header_path
from ncfast.tracking.sinks.protocol import Header, Record

REMEDY = "Correct or delete that line."
_SHOWN = 4  # differences in a message
_CHUNK, _LONGEST = 1 << 16, 1 << 26


def next_run(path: Path, last: Record | None, header: Header, before: Header | None) -> int:
    """The number of the run that continues a log.

    Args:
        path: the log.
        last: its last record, or None if it has none.
        header: the header of the run.
        before: the header of the log, or None if there is none.

    Raises:
        ValueError: the log has another header; the message says what differs.
    """
    if last is None:
        return 1
    if before is not None and (found := list(differences(before, header))):
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ValueError(
            f"Expected the settings with which {path} was written but {'; '.join(found[:_SHOWN])}"
            f"{more}. Make the tracker with those settings, or write to another file."
        )
    run = last.get(RUN, 1)  # version 0.1 did not write one
    if not isinstance(run, int) or isinstance(run, bool) or not 0 < run < 2**53:
        raise ValueError(
            f"Expected {RUN!r} in the last record of {path} to be a positive integer but got "
            f"{str(run)[:40]!r}. Correct that record, or write to another file."
        )
    return run + 1


def differences(before: Header, now: Header) -> Iterator[str]:
    """What differs between two headers, one text for each entry.

    Versions may differ, and so may conventions that only one of the headers has.

    Example:
        >>> list(differences({"num_classes": 3, "layers": []}, {"num_classes": 4, "layers": []}))
        ['num_classes was 3 and is 4']
    """
    now = json.loads(json.dumps(now, default=str))
    for name in dict.fromkeys((*before, *now)):
        one, other = before.get(name), now.get(name)
        if name == "conventions" and isinstance(one, dict) and isinstance(other, dict):
            shared = one.keys() & other.keys()
            one, other = ({k: of[k] for k in sorted(shared)} for of in (one, other))
        if name != "versions":
            yield from _differ(name, one, other)


def _differ(name: str, one: Any, other: Any) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys((*one, *other)):
            yield from _differ(f"{name}[{key!r}]", one.get(key), other.get(key))
    elif one is None and other is not None:
        yield f"{name} is new"
    elif isinstance(one, dict) and other is None:
        yield f"{name} is gone"
    elif one != other:
        yield f"{name} was {_short(one)} and is {'gone' if other is None else _short(other)}"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def read_header(path: Path) -> dict[str, Any] | None:
    """The header beside the log at ``path``; None if there is none.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    try:
        return read_object(header_path(path), "the header of a log")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(
            f"{error}. Restore it, or delete it if the log has the settings of this run."
        ) from error


def lines_of(path: Path) -> Iterator[bytes]:
    """The whole lines of ``path``; a last one without a line break is left out.

    Raises:
        ValueError: a line is longer than any record.
        OSError: the file cannot be read.
    """
    with _opened(path) as file:
        while line := file.readline(_LONGEST + 1):
            if len(line) > _LONGEST:
                raise ValueError(
                    f"{path}: expected a log of lines but got one of more than {_LONGEST:,} bytes. "
                    f"{REMEDY}"
                )
            if line.endswith(b"\n"):
                yield line


def _opened(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        text = f"Expected a log of records but got: {error.strerror}. Pass the path of a log"
        raise OSError(error.errno, text, str(path)) from error


def last_line(path: Path) -> bytes:
    """The last whole line of ``path`` with its line break; empty if there is none."""
    end = end_of_last_line(path)
    start, found = end, b""
    with open(path, "rb") as file:
        while start > 0 and b"\n" not in found[:-1]:
            size = min(_CHUNK, start)
            start -= size
            file.seek(start, os.SEEK_SET)
            found = file.read(size) + found
    return found[found[:-1].rfind(b"\n") + 1 :]


def check_step(record: Record, where: str) -> None:
    """Check that a record that was read has a step.

    Args:
        record: the record.
        where: the file and the line, for the message.

    Raises:
        ValueError: it has none, or one that is no integer of 64 bits.
    """
    step = record.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or not -(2**63) <= step < 2**63:
        got = "none" if "step" not in record else f"{str(step)[:40]!r}"
        raise ValueError(f"{where}: expected 'step' to be an integer but got {got}. {REMEDY}")


def last_of_each_step(records: Iterable[dict[str, float]]) -> Iterator[dict[str, float]]:
    """The last record of each step, in the order of the steps."""
    found = {record["step"]: record for record in records}
    yield from (found[step] for step in sorted(found))


def with_run(record: Record, run: int) -> Mapping[str, float]:
    """The record with the number of its run; 0 stands for a sink that no tracker has opened."""
    return {**record, RUN: run} if run else record
