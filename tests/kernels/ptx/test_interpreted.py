"""Runs the tests of ``interpreted/`` on compiled PTX, in processes of their own.

All of them run on code for sm_80. Of those for sm_90, the same tests of moments in one launch and
of neighbours run, and of the others those with the most different shapes.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1] / "interpreted"
ROOT = HERE.parents[2]
# files and the tests chosen of them, by capability
CASES = {
    80: ("", ""),
    90: (
        "test_moments test_neighbors test_update",
        "neighbors or tiny or several_programs or wider or left_out or strides or first_row_of",
    ),
}


@pytest.mark.timeout(1800)  # some minutes on a core that nobody shares
@pytest.mark.parametrize("capability", CASES)
def test_kernels_on_compiled_ptx(capability):
    names, chosen = CASES[capability]
    files = [str(HERE / f"{name}.py") for name in names.split()] or [str(HERE)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *files, "-k", chosen],
        cwd=ROOT,
        env={**os.environ, "NCFAST_PTX": str(capability)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
