"""Tests that the documentation site builds without a warning and holds every public name."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs/reference"
# what docs/stability.md calls public
MODULES = (
    "ncfast",
    "ncfast.evaluation",
    "ncfast.information",
    "ncfast.information.neighbors",
    "ncfast.integrations.torchmetrics",
    "ncfast.losses",
    "ncfast.metrics",
    "ncfast.tracking",
    "ncfast.tracking.analytics",
    "ncfast.tracking.sinks",
    "ncfast.experiments.data",
    "ncfast.experiments.models",
    "ncfast.experiments.report",
)
WITHOUT_ALL = (
    "ncfast.distributed.all_reduce_many",
    "ncfast.integrations.huggingface.CollapseCallback",
    "ncfast.integrations.lightning.CollapseCallback",
    "ncfast.tracking.schedule.every",
    "ncfast.tracking.schedule.at",
    "ncfast.tracking.schedule.log_spaced",
    "ncfast.tracking.schedule.paper",
)


def described():
    """The names that the reference pages ask mkdocstrings for."""
    pages = "\n".join(page.read_text() for page in REFERENCE.glob("*.md"))
    return re.findall(r"^::: ([\w.]+)$", pages, re.MULTILINE)


def found(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_on_a_page(module):
    names = described()
    there = [found(name) for name in names]
    home = importlib.import_module(module)
    for name in home.__all__:
        value = getattr(home, name)
        if name == "schedule":  # a module: its functions are in WITHOUT_ALL
            continue
        assert f"{module}.{name}" in names or any(value is each for each in there), name


@pytest.mark.parametrize("name", WITHOUT_ALL)
def test_names_of_modules_without_a_list_are_on_a_page(name):
    assert name in described()
    assert found(name).__doc__


def test_a_name_is_on_one_page_only():
    names = described()
    assert len(names) == len(set(names))


def test_every_package_of_the_api_is_listed():
    """A package that declares public names is in MODULES, or is internal."""
    internal = {"ncfast.ops", "ncfast.experiments.report.claims"}
    declared = {
        ".".join(file.relative_to(ROOT).parent.parts)
        for file in (ROOT / "ncfast").rglob("__init__.py")
        if "__all__ = " in file.read_text()
    }
    packages = {module for module in declared if module not in internal}
    assert packages - set(MODULES) - {"ncfast.accumulator"} == set()


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra [docs]")
    pytest.importorskip("mkdocstrings", reason="needs the extra [docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    page = (tmp_path / "site/reference/metrics/index.html").read_text()
    assert 'id="ncfast.rnc1"' in page
    assert "0.03125" in page  # the example of its docstring
    assert 'src="http' not in page  # no script, font or image of another host
    for html in (tmp_path / "site").rglob("*.html"):
        text = html.read_text()
        assert "../ncfast/" not in text, html  # links that leave docs/ go to the repository
        assert "../examples/" not in text, html


def test_patterns_of_the_navigation_hold_the_pages_that_no_entry_names():
    sys.path.insert(0, str(ROOT / "docs/hooks"))
    try:
        pages = importlib.import_module("pages")
    finally:
        sys.path.pop(0)
    given = ["index.md", {"Recipes": ["recipes/index.md", {"Logs": "recipes/logs.md"}]}]
    config = {
        "docs_dir": str(ROOT / "docs"),
        "nav": [*given, {"Others": ["recipes/*.md", "recipes/l*.md"]}],
    }
    nav = pages.on_config(config)["nav"]
    others = nav[-1]["Others"]
    assert "recipes/ddp.md" in others
    assert others[-1] == "recipes/lightning.md"  # the longest pattern takes a page
    assert len(others) == len(set(others))
    assert not {"recipes/index.md", "recipes/logs.md", "recipes/*.md"} & set(others)
    assert nav[:2] == given
