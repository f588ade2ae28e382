"""Files that end with a whole line, and the header beside them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ncfast.tracking.sinks.protocol import Header


class LineFile:
    """A file that grows by whole lines, each handed to the operating system in one write.

    A line that an earlier, killed process left unfinished is removed on opening.

    Args:
        path: the file; its folder is made if needed.

    Raises:
        OSError: the file cannot be opened; `path` is a directory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # unbuffered: a line is one write, and after a crash the file ends with a whole line
        self._file = self.path.open("ab", buffering=0)
        self.regular = self.path.is_file()
        if self.regular:
            self._file.truncate(end_of_last_line(self.path))

    def append(self, lines: bytes, steps: Sequence[object]) -> None:
        """Append whole lines; when that fails, those that are not whole are taken back.

        Args:
            lines: any number of lines.
            steps: the step of each, or of all.

        Raises:
            OSError: the disk is full, or the file cannot be written; the message names the step.
        """
        written = 0
        try:
            while written < len(lines):
                count = self._file.write(memoryview(lines)[written:])
                if not count:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                written += count
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(end_of_last_line(self.path))
            step = steps[min(lines.count(b"\n", 0, written), len(steps) - 1)]
            raise OSError(
                error.errno,
                f"Could not append a record of step {step} ({error.strerror}); the "
                "records before it are whole. Free some space, or choose another directory",
                str(self.path),
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def end_of_last_line(path: Path) -> int:
    """Bytes of ``path`` up to and with its last line break."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden file beside ``path`` that takes its place when the block ends without error."""
    path = path.resolve()  # a link stays a link
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def header_path(path: Path) -> Path:
    """Where the header of the log at ``path`` is: ``metrics.header.json`` for metrics.jsonl."""
    return path.with_suffix(".header.json")


def write_header(path: Path, header: Header) -> None:
    """Put the header beside the log at ``path``, whole or not at all; replaces an earlier one.

    Raises:
        OSError: the disk is full or the directory cannot be written.
    """
    with replacing(header_path(path)) as temporary:
        temporary.write_text(json.dumps(header, indent=2, default=str) + "\n")
