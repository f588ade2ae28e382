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
SM_90 = {
    "test_moments": "tiny or several_programs or equals_the_oracle or first_row or strided",
    "test_neighbors": "",
    "test_update": "equals_the_oracle or strides or wider or left_out or magnitude or zero",
}
CASES = [(path.stem, 80, "") for path in sorted(HERE.glob("test_*.py"))]
CASES += [(name, 90, chosen) for name, chosen in SM_90.items()]


@pytest.mark.timeout(1800)  # a process has to itself what it needs, but not always a core
@pytest.mark.parametrize(("name", "capability", "chosen"), CASES)
def test_kernels_on_compiled_ptx(name, capability, chosen):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(HERE / f"{name}.py"), "-k", chosen],
        cwd=ROOT,
        env={**os.environ, "NCFAST_PTX": str(capability)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
