"""Describes the environment of a run: versions, processor, clocks, threads and memory."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

import ncfast
from ncfast.ops import _raw

PACKAGES = (
    *("torch", "numpy", "scipy", "scikit-learn", "faiss-cpu", "triton"),
    *("torchmetrics", "ennemi", "npeet_plus", "infomeasure"),
)
# Entries that may differ between runs in one file.
PASSING = ("clocks_mhz", "load")
# Entries that identify the machine.
MACHINE = ("processor", "cores", "memory_gib", "gpu", "device", "threads", "instruction_set")


def describe(device: torch.device, threads: int) -> dict[str, Any]:
    """The environment before a run; `finish` adds clocks and load after it."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "ncfast": ncfast.__version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "instruction_set": _raw.extension.instruction_set() if _raw.extension else None,
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "last_cache_bytes": last_cache_bytes(),
        "gpu": gpu,
        "device": device.type,
        "threads": threads,
        "clocks_mhz": {"before": clocks_mhz()},
        "load": {"before": load()},
    }


def finish(environment: dict[str, Any]) -> None:
    """Add clocks and load at the end of a run."""
    environment["clocks_mhz"]["after"] = clocks_mhz()
    environment["load"]["after"] = load()


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two runs may be in one file: all entries except clocks and load agree."""
    names = (set(one) | set(other)) - set(PASSING)
    return all(one.get(name) == other.get(name) for name in names)


def same_machine(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether times of two runs can be compared directly; versions may differ."""
    return all(one.get(name) == other.get(name) for name in MACHINE)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The name of the processor, from Linux or else from Python."""
    found = _cpuinfo("model name")
    return found[0] if found else platform.processor() or platform.machine()


def clocks_mhz() -> list[float]:
    """The current clock of each core; empty if Linux does not report it."""
    return [float(value) for value in _cpuinfo("cpu MHz")]


def _cpuinfo(key: str) -> list[str]:
    path = Path("/proc/cpuinfo")
    return re.findall(rf"^{key}\s*: (.*)$", path.read_text(), re.MULTILINE) if path.exists() else []


def _memory_gib() -> int | None:
    path = Path("/proc/meminfo")
    if not path.exists():
        return None
    return round(int(path.read_text().split("MemTotal:")[1].split()[0]) / (1 << 20))


def load() -> float | None:
    """The mean number of running processes over the last minute; None if it is not reported."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def last_cache_bytes() -> int:
    """Size of the last cache level; 32 MiB if Linux does not report it."""
    sizes = [
        path.read_text().strip()
        for path in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    ]
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size), default=32 << 20)
