"""Appends whole lines to files that several processes may share, and writes headers of logs."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ncfast._files import lock, remove_unfinished, replacing, unlock
from ncfast.tracking.sinks.protocol import Header

_LONGEST = 1 << 28  # of an unfinished line


class LineFile:
    """A file that grows by whole lines, each handed to the operating system in one write.

    Opening removes a line that a killed process left unfinished, and its temporary files. Processes
    that write to one file wait for each other, on systems with `fcntl`. If the file is deleted or
    renamed while it is open, later lines go to a new file at the path, and a warning says so.

    Args:
        path: the file; its folder is made if needed.

    Raises:
        OSError: the file cannot be opened; `path` is a directory.

    Attributes:
        regular: whether it is a file, not a device or a pipe.
        opened: how often a file was opened; it changes when another file is at the path.
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
    # this runs in the sink's thread, where a warning turned into an error would lose records
    with contextlib.suppress(RuntimeWarning):
        warnings.warn(
            f"{path} was deleted or renamed while it was open. Later records go to a new file of "
            "that name; those before are where the old file is.",
            RuntimeWarning,
            stacklevel=2,
        )


def end_of_last_line(path: Path) -> int:
    """The number of bytes of ``path`` up to its last line break, inclusive."""
    with open(path, "rb") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
            if size - end > _LONGEST:
                raise OSError(
                    errno.EINVAL,
                    f"Expected a log of lines but its last {size - end:,} bytes have no line "
                    "break. Choose another path",
                    str(path),
                )
    return 0


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
