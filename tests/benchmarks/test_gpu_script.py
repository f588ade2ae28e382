"""Tests the script for a GPU, as far as a CPU can."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"


def rehearse(*stages: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT, "--rehearse", *stages],
        env=os.environ | {"PYTHON": sys.executable, **variables},
        capture_output=True,
        text=True,
    )


def test_every_kernel_is_called(tmp_path):
    done = rehearse("memory", RESULTS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finite") == 4


def test_a_failing_stage_ends_it(tmp_path):
    done = rehearse("no-such-stage", "memory", RESULTS=str(tmp_path))
    assert done.returncode != 0
    assert "finite" not in done.stdout
