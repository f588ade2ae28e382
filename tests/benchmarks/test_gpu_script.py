"""Tests the script for a GPU, as far as a CPU can."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"


def rehearse(*stages: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT, "--rehearse", *stages],
        env=os.environ | {"PYTHON": sys.executable} | variables,
        capture_output=True,
        text=True,
    )


def test_every_kernel_is_called(tmp_path):
    done = rehearse("memory", NCFAST_RESULTS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finite") == 4


def test_a_failing_stage_ends_it(tmp_path):
    done = rehearse("no-such-stage", "memory", NCFAST_RESULTS=str(tmp_path))
    assert done.returncode != 0
    assert "finite" not in done.stdout


BROKEN = """\
#!/bin/sh
exec {python} -c "
import runpy, sys
import ncfast.kernels.scatter as kernels
def broken(*given):
    raise RuntimeError('no kernel image')
kernels.scatter = broken
sys.argv = sys.argv[1:]
sys.path.insert(0, 'benchmarks/studies')
runpy.run_path(sys.argv[0], run_name='__main__')
" "$@"
"""


def test_a_kernel_that_did_not_run_fails_the_stage(tmp_path):
    """The reference takes its place, and its results are finite, too."""
    python = tmp_path / "python"
    python.write_text(BROKEN.format(python=sys.executable))
    python.chmod(0o755)
    done = rehearse("memory", NCFAST_RESULTS=str(tmp_path), PYTHON=str(python))
    assert done.returncode != 0
    assert "no kernel image" in done.stderr


def test_missing_packages_are_named_before_the_first_stage(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # no packages at all
    python.chmod(0o755)
    done = rehearse("verdicts", "f3", NCFAST_RESULTS=str(tmp_path), PYTHON=str(python))
    assert done.returncode != 0
    assert "f3 needs the package tyro, matplotlib" in done.stderr
    assert "== verdicts" not in done.stdout


def test_results_are_packed_when_the_time_is_up(tmp_path):
    results, packed = tmp_path / "results", tmp_path / "all.tgz"
    results.mkdir()
    (results / "kept.json").write_text("{}")
    (results / "checkpoint.safetensors").write_text("large")
    variables = {"NCFAST_RESULTS": str(results), "NCFAST_PACK": str(packed), "NCFAST_LIMIT": "0.5"}
    done = rehearse("memory", **variables)
    assert done.returncode == 124
    assert "ended after 0.5 s" in done.stderr
    assert "finite" not in done.stdout
    with tarfile.open(packed) as archive:
        assert archive.getnames() == [".", "./kept.json"]
