"""Remembers which kernels passed the self-check on a CUDA device, in a file of each user.

A verdict holds for one operation, path and dtype. It is filed under a key of everything that it
depends on: the device, its driver, the versions of torch, Triton, FAISS and ncfast. The self-check
(`ncfast.self_check`) writes the file; this module looks up verdicts and never starts anything.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ncfast._files import replacing

COMMAND = "ncfast info --check-gpu"
GROUP_SECONDS = 240.0  # longest time for one operation, path and dtype; then it hangs
# packages that hold the module `faiss`
_FAISS = (
    *("faiss", "faiss-cpu", "faiss-cuda", "faiss-gpu"),
    *("faiss-gpu-cu11", "faiss-gpu-cu12", "faiss-gpu-cuvs"),
)
_REFRESH_SECONDS = 2.0  # between two looks at a file that is not complete
_now = time.monotonic
Facts = dict[str, str | int]


class Verdict(NamedTuple):
    """What is known of the kernels of one operation, path and dtype on one device."""

    state: str  # "ok", "failed", "crashed", "timed out", "running" or "unchecked"
    reason: str = ""

    @property
    def usable(self) -> bool:
        """Whether the kernels passed the self-check."""
        return self.state == "ok"

    def __str__(self) -> str:
        """The state, and the reason if there is one."""
        return f"{self.state}: {self.reason}" if self.reason else self.state


class Subject(NamedTuple):
    """What a verdict is about."""

    operation: str  # `Operation.name`, or "neighbours"
    path: str  # of the operation; empty if it has one alone
    dtype: str  # of the features: "float32", ...


_NO_CHECK = Verdict("unchecked", f"no self-check has run; run `{COMMAND}`")


@dataclass
class Table:
    """The verdicts of one device in this process."""

    number: int  # of the device in this process
    facts: Facts
    verdicts: dict[Subject, Verdict] = field(default_factory=dict)
    usable: set[tuple[str, str]] = field(default_factory=set)  # operation, dtype of any path
    complete: bool = False  # no more verdicts will come
    looked: float = -_REFRESH_SECONDS  # when the file was read, by time.monotonic
    elsewhere: Path | None = (
        None  # the file of this process alone, where the usual folder is not writable
    )

    @property
    def file(self) -> Path | None:
        """The file of the verdicts, which need not exist; None if the user has no folder."""
        place = folder()
        usual = None if place is None else place / f"{self.key}.json"
        return self.elsewhere or usual

    @property
    def key(self) -> str:
        """The name of the file."""
        text = json.dumps(self.facts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


_tables: dict[int, Table | None] = {}  # by the number of the device; None: no facts


def verdict(operation: str, path: str, dtype: torch.dtype, device: torch.device) -> Verdict:
    """The verdict on the kernels of an operation; a look-up that starts nothing and waits for none.

    The first call for a device reads its file. It may be called while a CUDA graph is captured and
    while something traces.

    Args:
        operation: `Operation.name`, "class moments", or "neighbours".
        path: of the operation ("one launch", "sorted rows"; the engine for "neighbours"); empty if
            it has one alone.
        dtype: of the features.
        device: a CUDA device; any other has no verdict.

    Returns:
        The verdict; its state is "unchecked" where nothing is known.
    """
    table = table_of(device)
    if table is None:
        return Verdict("unchecked", f"{device} is not a CUDA device that torch finds")
    return table.verdicts.get(subject(operation, path, dtype), _NO_CHECK)


def some_usable(operation: str, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernels of any path of an operation passed the self-check; a look-up."""
    table = table_of(device)
    return table is not None and (operation, str(dtype).removeprefix("torch.")) in table.usable


def subject(operation: str, path: str, dtype: torch.dtype) -> Subject:
    """What `verdict` looks up."""
    return Subject(operation, path, str(dtype).removeprefix("torch."))


def table_of(device: torch.device) -> Table | None:
    """The verdicts of a device as far as this process has read them; None without facts."""
    number = _number(device)
    if number is None:
        return None
    if number not in _tables:
        found = facts(number)
        _tables[number] = None if found is None else Table(number, found)
        read(_tables[number])
    return _tables[number]


def refresh(device: torch.device) -> None:
    """Read the file again if more verdicts may have come, at most once in two seconds."""
    table = table_of(device)
    if table is None or table.complete:
        return
    if _now() - table.looked >= _REFRESH_SECONDS:
        read(table)


def forget() -> None:
    """Drop what this process has read; the next look-up reads the files again."""
    _tables.clear()


def _number(device: torch.device) -> int | None:
    """The number of a CUDA device; None for any other device."""
    if device.type != "cuda" or device.index is not None:
        return device.index if device.type == "cuda" else None
    return torch.cuda.current_device() if torch.cuda.is_available() else None


def devices() -> range:
    """The numbers of the CUDA devices that torch finds."""
    return range(torch.cuda.device_count() if torch.cuda.is_available() else 0)


def facts(number: int) -> Facts | None:
    """Everything that a verdict on CUDA device ``number`` depends on; None if there is no such."""
    if number not in devices():
        return None
    found = torch.cuda.get_device_properties(number)
    device: Facts = {
        "device": found.name,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory": found.total_memory,
    }
    return {**device, **_software()}


@functools.cache
def _software() -> Facts:
    version: Any = getattr(torch._C, "_cuda_getDriverVersion", lambda: 0)
    return {
        "driver": f"{version()} {_driver()}",
        "torch": torch.__version__,
        "runtime": str(torch.version.cuda or torch.version.hip),
        "triton": _installed("triton", "pytorch-triton", "pytorch-triton-rocm", "triton-windows"),
        "ncfast": _installed("ncfast"),
        "faiss": " ".join(f"{name} {_installed(name)}" for name in _FAISS if _installed(name)),
        "code": _code(),
    }


def _driver() -> str:
    """The version of the kernel's module, where the system says it."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return Path("/proc/driver/nvidia/version").read_text().partition("\n")[0]
    return ""


def _installed(*names: str) -> str:
    """The version of the first of these packages that is installed."""
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return ""


def _code() -> str:
    """A digest of the kernels, of what launches them, and of the self-check itself."""
    digest = hashlib.sha256()
    here = Path(__file__).parent.parent
    kernels = importlib.util.find_spec("ncfast.kernels")
    places = [*(kernels.submodule_search_locations or [])] if kernels is not None else []
    folders = [*map(Path, places), here / "ops", here / "self_check"]
    for folder in [*folders, here / "information" / "neighbors"]:
        for path in sorted(folder.glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


# The file


def folder() -> Path | None:
    """Where the files lie: ``$XDG_CACHE_HOME/ncfast/verdicts`` or ``~/.cache/ncfast/verdicts``."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        cache = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    except RuntimeError:  # the user has no home directory
        return None
    return cache / "ncfast" / "verdicts"


def read(table: Table | None) -> None:
    """Take over what the file of the verdicts holds; a file that cannot be read holds nothing."""
    if table is None:
        return
    table.looked = _now()
    path = table.file
    if path is None:
        return
    try:
        age = time.time() - path.stat().st_mtime
        content = json.loads(path.read_text())
        found = {Subject(*row[:3]): Verdict(*row[3:]) for row in content["verdicts"]}
        finished = bool(content["finished"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    # a self-check that has not written for so long was killed, or the machine went down
    dead = not finished and age > GROUP_SECONDS + 60
    ended = Verdict("crashed", "the self-check ended while it ran these kernels")
    table.verdicts = {
        name: ended if dead and entry.state == "running" else entry for name, entry in found.items()
    }
    table.usable = {(name.operation, name.dtype) for name, v in table.verdicts.items() if v.usable}
    table.complete = finished or dead


def write(
    path: Path, facts: Facts, verdicts: Iterable[tuple[Subject, Verdict]], *, finished: bool
) -> None:
    """Replace the file of the verdicts at once: a reader sees the old file or the new one.

    Raises:
        OSError: the folder cannot be written to.
    """
    rows = [[*name, *entry] for name, entry in verdicts]
    content = {"facts": facts, "finished": finished, "verdicts": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
