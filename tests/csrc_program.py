"""Builds the checks of csrc/tests/sanitize.cpp with a given compiler, one process per core."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CSRC = Path(__file__).parents[1] / "csrc"


def build(compiler: str, flags: list[str], folder: Path) -> Path:
    """Compile all of csrc without its Python module and link it in ``folder``: the program."""
    found = (path for path in CSRC.rglob("*.cpp") if path.name != "module.cpp")
    options = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Wno-psabi", "-pthread"]
    options += ["-ffp-contract=fast", *flags]

    def compiled(source: Path) -> Path:
        target = folder / ("_".join(source.relative_to(CSRC).parts) + ".o")
        succeed([*options, "-I", CSRC, "-c", source, "-o", target])
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sorted(found)))
    succeed([*options, *objects, "-o", folder / "checks"])
    return folder / "checks"


def succeed(command: list[str | Path]) -> str:
    """Run a command that must succeed; its standard output."""
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout
