"""Tests the content of an installation, with and without a compiler."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the sources by a compiler that does not exist."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.so", "runs", "build", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=ignored)
    (source / "ncfast" / "_build_info.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "-w", str(folder), str(source)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CC": "/nonexistent/cc", "CXX": "/nonexistent/c++"},
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_every_module_is_installed(wheel):
    modules = {path.relative_to(ROOT) for path in (ROOT / "ncfast").rglob("*.py")}
    parts = ("", "/plain", "/operations", "/reliability", "/report")
    for folder in ("kernels", *(f"benchmarks{part}" for part in parts)):
        modules |= {Path("ncfast", folder, path.name) for path in (ROOT / folder).glob("*.py")}
    missing = [str(path) for path in sorted(modules) if not (wheel / path).exists()]
    assert not missing
    assert (wheel / "ncfast" / "py.typed").exists()


def test_without_a_compiler_the_install_works_and_says_why(wheel):
    assert not list((wheel / "ncfast").glob("_C*.so"))
    code = (
        # an editable installation of the sources must not lend its extension
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)];"
        "import json, ncfast, torch; x = torch.eye(4); y = torch.arange(4) % 2;"
        "print(json.dumps([ncfast.__file__, ncfast.rnc1(x, y).item(),"
        " ncfast.backends()['cpu'].available, ncfast.backends()['cpu'].reason]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=wheel,
        env={**os.environ, "PYTHONPATH": str(wheel)},
    )
    file, value, available, reason = json.loads(done.stdout)
    assert file.startswith(str(wheel))
    assert value == pytest.approx(0.5)
    assert not available
    assert "was not built" in reason


def test_the_oldest_versions_are_those_that_are_declared():
    """tests/oldest.sh runs with tests/oldest.txt what pyproject.toml promises."""
    text = (ROOT / "pyproject.toml").read_text()
    declared = re.findall(r'"(.+?)"', re.search(r"^dependencies = \[(.+)\]$", text, re.M)[1])
    lines = (ROOT / "tests" / "oldest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    promised = dict(entry.split(">=") for entry in declared)
    del promised["typing_extensions"]  # torch declares a newer one
    assert pinned.keys() == promised.keys()
    for name, oldest in promised.items():
        assert f"{pinned[name]}.".startswith(f"{oldest}."), name
