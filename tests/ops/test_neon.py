"""The extension's kernels for aarch64, in an emulator; needs a cross-compiler and qemu."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from csrc_program import CSRC, build, succeed

COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    COMPILER is None or EMULATOR is None or not CSRC.exists(),
    reason="needs aarch64-linux-gnu-g++, qemu-aarch64 and the sources",
)
def test_kernels_in_an_emulator(tmp_path: Path) -> None:
    assert COMPILER is not None
    assert EMULATOR is not None
    program = build(COMPILER, ["-O2", "-static", "-Werror"], tmp_path)
    assert succeed([EMULATOR, program]) == "neon: done\n"
