"""The files of logs: appends and reads whole lines, keeps the header, numbers the runs of a log."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ncfast._files import lock, remove_unfinished, replacing, unlock
from ncfast._strict_json import read_object
from ncfast.tracking.keys import RUN
from ncfast.tracking.sinks.protocol import Header, Record

REMEDY = "Correct or delete that line."
_LONGEST_TAIL = 1 << 28  # bytes of an unfinished last line
_LONGEST_LINE = 1 << 26  # bytes of a line that is read
_CHUNK = 1 << 16  # bytes that are read at once from the end of a file
_SHOWN = 4  # differences in a message


class LineFile:
    """A file that grows by whole lines, each handed to the operating system in one write.

    Opening removes a line that a killed process left unfinished, and its temporary files. Processes
    that write to one file wait for each other, on systems with `fcntl`. If the file is deleted or
    renamed while it is open, later lines go to a new file at the path, and a warning says so.

    Args:
        path: the file; its folder is made if needed.

    Raises:
        OSError: the file cannot be opened, for example because ``path`` is a directory.

    Attributes:
        path: the path.
        regular: whether it is a file, not a device or a pipe.
        opened: how often a file was opened; it rises when another file is at the path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.opened = 0
        self._open()
        if self.regular:
            remove_unfinished(self.path)
            remove_unfinished(header_path(self.path))
            try:
                with self.locked():
                    self._truncate()
            except BaseException:
                self._file.close()
                raise

    def append(self, lines: bytes, steps: Sequence[object]) -> None:
        """Append whole lines; a failure removes the part of a line that was written.

        Args:
            lines: any number of lines.
            steps: the step of each line, or one step for all.

        Raises:
            OSError: the disk is full, or the file cannot be written; the message names the step.
        """
        with self.locked():
            self.append_locked(lines, steps)

    def append_locked(self, lines: bytes, steps: Sequence[object]) -> None:
        """`append` for a caller that is inside `locked`."""
        written = 0
        try:
            while written < len(lines):
                count = self._file.write(memoryview(lines)[written:])
                if not count:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                written += count
        except OSError as error:
            with contextlib.suppress(OSError):
                self._truncate()
            step = steps[min(lines.count(b"\n", 0, written), len(steps) - 1)]
            raise OSError(
                error.errno,
                f"Could not append a record of step {step} ({error.strerror}); the "
                "records before it are whole. Free some space, or choose another directory",
                str(self.path),
            ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the file inside the block, and make sure that it is the one at the path."""
        if not self.regular:
            yield
            return
        lock(self._file)
        try:
            while not self._is_at_path():
                self.reopen_locked()
            yield
        finally:
            unlock(self._file)

    def reopen_locked(self) -> None:
        """Open and lock the file that is now at the path."""
        self._file.close()  # and unlock
        self._open()
        lock(self._file)

    def is_empty(self) -> bool:
        """Whether the file is empty."""
        return self.regular and os.fstat(self._file.fileno()).st_size == 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # unbuffered: each line is one write, so that after a crash the file ends with a whole line
        self._file: Any = self.path.open("ab", buffering=0)
        self.regular = self.path.is_file()
        self.opened += 1

    def _is_at_path(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False

    def _truncate(self) -> None:
        self._file.truncate(end_of_last_line(self.path))


def warn_of_new_file(path: Path) -> None:
    """Warn that a log was deleted or renamed while it was open."""
    # the sink's thread calls this: a warning that is turned into an error there would lose records
    with contextlib.suppress(RuntimeWarning):
        warnings.warn(
            f"{path} was deleted or renamed while it was open. Later records go to a new file of "
            "that name; earlier ones are in the old file.",
            RuntimeWarning,
            stacklevel=2,
        )


def end_of_last_line(path: Path, before: int | None = None) -> int:
    """The number of bytes of ``path`` up to its last line break, inclusive.

    Args:
        path: the file.
        before: only so many bytes from the start are searched; None searches all.

    Raises:
        OSError: the bytes after that line break are more than any record has.
    """
    with open(path, "rb") as file:
        size = end = file.seek(0, os.SEEK_END) if before is None else before
        while end > 0:
            start = max(0, end - _CHUNK)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
            if size - end > _LONGEST_TAIL:
                raise OSError(
                    errno.EINVAL,
                    f"Expected a log of lines but its last {size - end:,} bytes have no line "
                    "break. Choose another path",
                    str(path),
                )
    return 0


def last_line(path: Path) -> bytes:
    """The last whole line of ``path`` with its line break; empty if there is none."""
    end = end_of_last_line(path)
    start = end_of_last_line(path, end - 1)
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(end - start)


def lines_of(path: Path) -> Iterator[bytes]:
    """The whole lines of ``path``, without an unfinished last one.

    Raises:
        ValueError: a line is longer than any record.
        OSError: the file cannot be read.
    """
    with _opened(path) as file:
        while line := file.readline(_LONGEST_LINE + 1):
            if len(line) > _LONGEST_LINE:
                raise ValueError(
                    f"{path}: expected a log of lines but got one of more than {_LONGEST_LINE:,} "
                    f"bytes. {REMEDY}"
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


def header_path(path: Path) -> Path:
    """The path of a log's header: ``metrics.header.json`` for metrics.jsonl."""
    return path.with_suffix(".header.json")


def write_header(path: Path, header: Header) -> None:
    """Write the header beside the log at ``path``, completely or not at all, over an earlier one.

    Raises:
        OSError: the disk is full or the directory cannot be written.
    """
    with replacing(header_path(path)) as temporary:
        temporary.write_text(json.dumps(header, indent=2, default=str) + "\n")


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


def next_run(path: Path, last: Record | None, header: Header, before: Header | None) -> int:
    """The number of a run: 1 for a new log, or one more than that of the run it continues.

    Args:
        path: the log.
        last: the last record of the log, or None if it has none.
        header: the header of this run.
        before: the header of the log, or None if it has none.

    Raises:
        ValueError: the log has another header, and the message says what differs; or the number in
            its last record is damaged.
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
    """The differences between two headers, one text for each entry.

    Versions are not compared, nor are conventions that only one of the headers has.

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


def with_run(record: Record, run: int) -> Mapping[str, float]:
    """The record with the number of its run; 0, of a sink that no tracker opened, adds nothing."""
    return {**record, RUN: run} if run else record


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
