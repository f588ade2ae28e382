"""Builds the kernels with sanitizers and runs them on a small set of shapes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
FLAGS = [
    "-std=c++17",
    "-O1",
    "-g",
    "-ffp-contract=fast",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    "-pthread",
]


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_kernels_under(sanitizer: str, tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None or not CSRC.exists():
        pytest.skip("no C++ compiler, or no sources, here")
    flags = [*FLAGS, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    probe = tmp_path / "probe.cpp"
    probe.write_text("int main() { return 0; }")
    if _run([compiler, *flags, probe, "-o", tmp_path / "probe"]).returncode:
        pytest.skip(f"the compiler has no runtime for -fsanitize={sanitizer}")

    sources = [path for path in sorted(CSRC.glob("*/*.cpp")) if path.parent.name != "tests"]
    program = tmp_path / "sanitize"
    built = _run(
        [compiler, *flags, "-I", CSRC, CSRC / "tests" / "sanitize.cpp", *sources, "-o", program]
    )
    assert built.returncode == 0, built.stderr
    ran = _run([program])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "done" in ran.stdout


def _run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
