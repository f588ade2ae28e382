"""The extension's kernels under sanitizers, on a small set of shapes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from csrc_program import CSRC, build, succeed


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_kernels_under(sanitizer: str, tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None or not CSRC.exists():
        pytest.skip("no C++ compiler, or no sources, here")
    flags = ["-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    probe = tmp_path / "probe.cpp"
    probe.write_text("int main() { return 0; }")
    command = [compiler, *flags, probe, "-o", tmp_path / "probe"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"the compiler has no runtime for -fsanitize={sanitizer}")
    assert "done" in succeed([build(compiler, flags, tmp_path)])
