"""The error raised for a data file that cannot be used, and its remedies."""

from __future__ import annotations

from pathlib import Path


class DataFileError(RuntimeError):
    """A data file is missing, truncated, corrupt or unsafe; the message names the remedy."""

    def __init__(self, path: Path, problem: str, expected: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}; expected {expected}. {remedy}")
        self.path = path


REMEDY_MISSING = (
    "Point --data-dir (or NCFAST_DATA) at the folder that holds it, or pass --download to fetch it."
)
REMEDY_BROKEN = "Delete it and pass --download to fetch it again, or copy it anew."
