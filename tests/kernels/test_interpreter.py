"""Runs the tests of ``interpreted/`` with Triton's interpreter, in a process of its own."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def why_not():
    if importlib.util.find_spec("triton") is None:
        return "needs triton (Linux on x86-64 only)"
    if importlib.metadata.version("triton").startswith("3.6"):
        return "the interpreter of Triton 3.6 fails on loop bounds with NumPy 2.4 and later"
    return ""


@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "file", sorted((HERE / "interpreted").glob("test_*.py")), ids=lambda f: f.stem
)
def test_kernels_in_the_interpreter(file):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(file)],
        cwd=HERE.parent.parent,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_nothing_imports_triton_without_a_cuda_tensor():
    code = (
        "import sys, torch, ncfast\n"
        "before = 'triton' in sys.modules\n"
        "ncfast.backends()\n"
        "plan = ncfast.plan(torch.arange(9) % 3, 3)\n"
        "ncfast.collapse_metrics(torch.randn(9, 4), plan)\n"
        "assert ('triton' in sys.modules) == before\n"
        "assert 'ncfast.kernels.launch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
