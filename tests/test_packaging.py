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

from ncfast._optional import need

ROOT = Path(__file__).parent.parent


def build(source, folder, **variables):
    """Build a wheel of a folder of sources; the process that did."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    return subprocess.run(
        [*command, "--disable-pip-version-check", "-w", str(folder), str(source)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NCFAST_PURE": "0", **variables},
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the sources that holds nothing built, but the record of another build."""
    source = tmp_path_factory.mktemp("sources") / "source"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.so", "runs", "build", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=ignored)
    (source / "ncfast" / "_build_info.json").write_text('{"built": true, "reason": ""}')
    return source


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    """What a wheel holds that was built by a compiler that does not exist."""
    folder = tmp_path_factory.mktemp("wheel")
    done = build(source, folder, CC="/nonexistent/cc", CXX="/nonexistent/c++")
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    assert path.name.endswith("-py3-none-any.whl")  # another one than with an extension
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
    assert "was not built: there was no C++ compiler (/nonexistent/c++ was not found)" in reason
    assert "pip install --force-reinstall" in reason


def test_a_compiler_that_fails_is_an_error_with_its_words_and_the_remedy(source, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'fatal error: no such header' >&2\nexit 1\n")
    compiler.chmod(0o755)
    done = build(source, tmp_path, CXX=str(compiler))
    assert done.returncode != 0
    assert "fatal error: no such header" in done.stderr + done.stdout
    assert "NCFAST_PURE=1 pip install ncfast" in done.stderr + done.stdout
    assert not list(tmp_path.glob("*.whl"))


def test_a_pure_installation_on_request(source, tmp_path):
    done = build(source, tmp_path, NCFAST_PURE="1")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*-py3-none-any.whl")
    with zipfile.ZipFile(path) as archive:
        info = json.loads(archive.read("ncfast/_build_info.json"))
    assert info == {"built": False, "reason": "NCFAST_PURE was set"}


def test_the_description_has_absolute_links(wheel):
    (metadata,) = wheel.glob("ncfast-*.dist-info/METADATA")
    text = metadata.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links
    assert not [link for link in links if not re.match("https://|#", link)]
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert not [link for link in pictures if "/blob/" in link]  # a page, not a picture


def test_one_version():
    """CITATION.cff, the newest dated section of the changelog and pyproject.toml agree."""
    text = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', text, re.M)[1]
    assert re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)[1] == version
    sections = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert sections[0] == "Unreleased" or re.fullmatch(
        re.escape(version) + r" \(\d{4}-\d\d-\d\d\)", sections[0]
    )


def extras():
    """The packages of each extra in pyproject.toml, by the names of the modules."""
    text = (ROOT / "pyproject.toml").read_text()
    modules = {"mlflow-skinny": "mlflow", "scikit-learn": "sklearn"}
    return {
        name: {
            modules.get(package, package)
            for package in re.findall(r'"([\w-]+)', re.search(rf"^{name} = (.+)$", text, re.M)[1])
        }
        for name in ("experiments", "integrations")
    }


NEEDED = {
    module
    for path in (ROOT / "ncfast").rglob("*.py")
    for module in re.findall(r'\bneed\(\s*"([\w.]+)"', path.read_text())
    if not module.startswith("torch.")  # always there
}


@pytest.mark.parametrize("module", sorted(NEEDED))
def test_an_error_names_the_extra_that_has_the_package(module, monkeypatch):
    top = module.split(".")[0]
    monkeypatch.setitem(sys.modules, top, None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ncfast\[") as missing:
        need(module, "This")
    named = re.search(r"ncfast\[(\w+)\]", str(missing.value))[1]
    assert top in extras()[named]


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
