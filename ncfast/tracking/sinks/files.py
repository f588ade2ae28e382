"""Files that end with a whole line, also when several processes append to one of them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ncfast.tracking.sinks.protocol import Header

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LOCK_SECONDS = 10.0
_UNFINISHED = ".tmp"


class LineFile:
    """A file that grows by whole lines, each handed to the operating system in one write.

    A line that an earlier, killed process left unfinished is removed on opening, and so are its
    temporary files. Processes that write to one file wait for each other, on systems with `fcntl`.
    When the file is deleted or renamed while it is open, a warning says so and later lines go to a
    new file at the path.

    Args:
        path: the file; its folder is made if needed.

    Raises:
        OSError: the file cannot be opened; `path` is a directory.

    Attributes:
        regular: whether it is a file, not a device or a pipe.
        opened: how often a file was opened; what was known of an earlier one may not hold.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.opened = 0
        self._open()
        if self.regular:
            remove_unfinished(self.path)
            remove_unfinished(header_path(self.path))
            with self.locked():
                self._truncate()

    def append(self, lines: bytes, steps: Sequence[object]) -> None:
        """Append whole lines; when that fails, those that are not whole are taken back.

        Args:
            lines: any number of lines.
            steps: the step of each, or of all.

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
        """Inside, no other process writes to the file, which is the one at the path."""
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
        """Open and lock the file that is at the path now."""
        self._file.close()  # and unlock
        self._open()
        lock(self._file)

    def is_empty(self) -> bool:
        """Whether nothing is in the file."""
        return self.regular and os.fstat(self._file.fileno()).st_size == 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # unbuffered: a line is one write, and after a crash the file ends with a whole line
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


def lock(file: Any) -> None:
    """Wait until no other process has locked the file, then lock it.

    Raises:
        OSError: another process has held it for ten seconds.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while not try_lock(file):
        if time.monotonic() > deadline:
            raise OSError(errno.EAGAIN, "Another process has locked the log", str(file.name))
        time.sleep(0.0005)


def try_lock(file: Any) -> bool:
    """Lock the file; False if another process has. True on file systems without locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def unlock(file: Any) -> None:
    """Undo `lock`; a closed file is unlocked."""
    if fcntl is not None and not file.closed:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def warn_of_new_file(path: Path) -> None:
    """Say that a log was deleted or renamed under its writer."""
    # in the thread of the sink, where a warning that is made an error would only lose records
    with contextlib.suppress(RuntimeWarning):
        warnings.warn(
            f"{path} was deleted or renamed while it was open. Later records go to a new file of "
            "that name; those before are where the old file is.",
            RuntimeWarning,
            stacklevel=2,
        )


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
    """A hidden file beside ``path`` that takes its place when the block ends without error.

    It stays locked meanwhile: one that nobody has locked is of a killed process, see
    `remove_unfinished`.
    """
    path = path.resolve()  # a link stays a link
    remove_unfinished(path)
    with _temporary(path) as temporary:
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    while True:
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED
        )
        with os.fdopen(handle, "rb") as file:
            # another process may have taken it for a leftover before it was locked
            if try_lock(file) and os.path.exists(name):
                yield Path(name)
                return


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes left of `replacing` beside ``path``."""
    path = path.resolve()
    for entry in _entries(path.parent):
        if entry.startswith(f".{path.name}.") and entry.endswith(_UNFINISHED):
            with contextlib.suppress(OSError), (path.parent / entry).open("rb") as file:
                if try_lock(file):
                    os.unlink(file.name)


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


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
