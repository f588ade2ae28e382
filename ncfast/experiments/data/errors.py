"""The error raised for a data file that cannot be used, its remedies, and a check of paths."""

from __future__ import annotations

import stat
from pathlib import Path


class DataFileError(RuntimeError):
    """A data file is missing, truncated, corrupt or unsafe; the message names the remedy."""

    def __init__(self, path: Path, problem: str, expected: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}; expected {expected}. {remedy}")
        self.path = path


def check_file(path: Path, expected: str) -> None:
    """Check that ``path`` is a file that can be opened.

    Args:
        path: the file.
        expected: what it should be, for the message.

    Raises:
        DataFileError: there is none, it is no regular file, far too large, or cannot be opened.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device might never end
            raise DataFileError(path, "no regular file", expected, REMEDY_MISSING)
        if status.st_size > MOST_BYTES:
            raise DataFileError(path, f"holds {status.st_size:,} bytes", expected, REMEDY_BROKEN)
        path.open("rb").close()
    except FileNotFoundError as error:
        raise DataFileError(path, "no such file", expected, REMEDY_MISSING) from error
    except OSError as error:
        problem = f"cannot be opened ({error.strerror})"
        raise DataFileError(path, problem, expected, REMEDY_MISSING) from error


MOST_BYTES = 1 << 30  # no file of these datasets is nearly as large
REMEDY_MISSING = (
    "Point --data-dir (or NCFAST_DATA) at the folder that holds it, or pass --download to fetch it."
)
REMEDY_BROKEN = "Delete it and pass --download to fetch it again, or copy it anew."
