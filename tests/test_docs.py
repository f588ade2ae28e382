"""Tests that the examples of the README and the docs run, and that what they name exists."""

import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page):
    return page.relative_to(ROOT).as_posix().removeprefix("docs/")


EXAMPLES = [
    pytest.param(name_of(page), code, id=f"{name_of(page)}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]
# recipes whose framework warns by itself
OTHERS_WARN = {"recipes/lightning.md", "recipes/huggingface.md"}


@pytest.mark.parametrize(("page", "code"), EXAMPLES)
def test_example(page, code, tmp_path, monkeypatch):
    if re.search("^import pandas", code, re.MULTILINE):
        pytest.importorskip("pandas", reason="needs pandas")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        if page in OTHERS_WARN:
            warnings.simplefilter("default")
            warnings.filterwarnings("error", module="ncfast")
        exec(compile(code, "<example>", "exec"), {})


def test_pages_write_to_folders_of_their_own():
    """A log is continued: a reader of two pages in one folder would meet other settings."""
    texts = {name_of(page): page.read_text() for page in PAGES if page.name != "README.md"}
    trained = {
        folder for text in texts.values() for folder in re.findall(r"--out (runs/[\w-]+)", text)
    }
    owners: dict[str, set[str]] = {}
    for page, text in texts.items():
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            for folder in re.findall(r'"(?:tensorboard:)?(runs/[\w-]+)/', code):
                owners.setdefault(folder, set()).add(page)
    assert {"runs/plain-loop", "runs/lightning", "runs/logs"} <= owners.keys()
    assert not {folder: pages for folder, pages in owners.items() if len(pages) > 1}
    assert not trained & owners.keys()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tests_that_are_named_exist(page):
    for file, name in re.findall(r"`((?:\w+/)+test_\w+\.py)::(test_\w+)`", page.read_text()):
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), name


def text_of(path):
    """The source of a file, or of every Python file in a folder."""
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    return "\n".join(file.read_text() for file in files)


PAGE = (ROOT / "docs/architecture.md").read_text()


@pytest.mark.parametrize("block", re.split(r"\n(?=\n|\d\. |\|)", PAGE))
def test_the_architecture_page_names_what_exists(block):
    """A name in backticks is defined in the file or folder named before it, or in ncfast."""
    source = text_of(ROOT / "ncfast")
    for quoted in re.findall(r"`([^`\n]+)`", block):
        if "/" in quoted or quoted.endswith(".py"):
            assert (ROOT / quoted).exists(), quoted
            source = text_of(ROOT / quoted)
        elif re.fullmatch(r"[\w.]+", quoted):
            name = quoted.split(".")[-1]
            assert re.search(rf"(def|class|struct) {name}\b|\b{name}\b *[(:=]", source), quoted
