"""The kernels built for aarch64 and run in an emulator, where both tools are installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64")
FLAGS = ["-std=c++17", "-O2", "-ffp-contract=fast", "-Wall", "-Wextra", "-Wno-psabi", "-pthread"]


@pytest.mark.slow
@pytest.mark.skipif(
    COMPILER is None or EMULATOR is None or not CSRC.exists(),
    reason="needs aarch64-linux-gnu-g++, qemu-aarch64 and the sources",
)
def test_kernels_in_an_emulator(tmp_path: Path) -> None:
    assert COMPILER is not None
    assert EMULATOR is not None
    program = tmp_path / "check"
    sources = [path for path in sorted(CSRC.glob("*/*.cpp")) if path.parent.name != "tests"]
    command = [COMPILER, *FLAGS, "-static", "-I", CSRC, CSRC / "tests" / "sanitize.cpp", *sources]
    built = subprocess.run([*command, "-o", program], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert not built.stderr
    ran = subprocess.run([EMULATOR, program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout == "neon: done\n"
