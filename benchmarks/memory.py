"""Measures the memory of this process on Linux; on other systems the result is None."""

from __future__ import annotations

import os
from pathlib import Path

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def now() -> dict[str, int]:
    """MiB of this process: anonymous pages, and pages of files that it has mapped."""
    return {key: _status(key) // 1024 for key in ("RssAnon", "RssFile")}


def physical() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Peak:
    """The largest memory inside the context beyond what was there on entering.

    Attributes:
        bytes: set on leaving; None where the system does not tell.
    """

    bytes: int | None = None

    def __enter__(self) -> Peak:
        try:
            FORGET.write_text("5")  # the peak so far is forgotten
            self._before = _status("VmHWM")
        except OSError:
            self._before = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            self.bytes = max(0, 1024 * (_status("VmHWM") - self._before))


def _status(key: str) -> int:
    """Of the process's status, in KiB."""
    return int(STATUS.read_text().split(f"{key}:")[1].split()[0])
