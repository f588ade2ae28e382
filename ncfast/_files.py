"""Replaces a file as a whole, so that a killed process leaves the old one or the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


_LOCK_SECONDS = 10.0
_UNFINISHED = ".tmp"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden file beside ``path``, which replaces it when the block ends without an error.

    The hidden file is locked until then. One without a lock was left by a killed process, and
    `remove_unfinished` deletes it.

    Raises:
        OSError: the file cannot be written, or an OSError in the block; it names ``path``.
    """
    path = path.resolve()  # a link stays a link
    remove_unfinished(path)
    try:
        with _temporary(path) as temporary:
            try:
                yield temporary
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                temporary.chmod(0o644)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None:  # it has a message of its own
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    while True:
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED
        )
        with os.fdopen(handle, "rb") as file:
            # before the lock another process may have deleted it as a leftover
            if try_lock(file) and os.path.exists(name):
                yield Path(name)
                return


def remove_unfinished(path: Path) -> None:
    """Delete the hidden files of `replacing` that killed processes left beside ``path``."""
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


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[bool]:
    """Lock a folder inside the block; False if another process has locked it.

    The lock leaves no file, and ends with the process. True on systems without such locks.
    """
    if fcntl is None:
        yield True
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield try_lock(handle)
    finally:
        os.close(handle)


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
    """Lock a file or a descriptor; False if another process holds the lock.

    True on systems without locks.
    """
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
    """Release the lock; closing a file releases it too."""
    if fcntl is not None and not file.closed:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
