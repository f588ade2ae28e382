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
    """The peak of the memory inside the context, minus the memory on entering.

    Attributes:
        bytes: set on leaving; None on systems that do not report it.
    """

    bytes: int | None = None

    def __enter__(self) -> Peak:
        try:
            FORGET.write_text("5")  # resets the peak
            self._before = _status("VmHWM")
        except OSError:
            self._before = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            self.bytes = max(0, 1024 * (_status("VmHWM") - self._before))


def _status(key: str) -> int:
    """An entry of the status of the process, in KiB."""
    return int(STATUS.read_text().split(f"{key}:")[1].split()[0])
