"""Tests that commands, options, ids, names and files that the docs mention exist."""

import contextlib
import importlib
import io
import re
from functools import cache
from pathlib import Path

import pytest

import ncfast
from ncfast import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = ("info", "eval", "train", "sweep", "report", "bench")
FAMILIES = "rnc1|nc1|nc2|nc3|nc4|nc5|nrc1|nrc2|nrc3|rank|ssl|imbalance|bound|weight"
CALL = re.compile(rf"ncfast ({'|'.join(COMMANDS)})\b(.*)")
# quoted names that look like ids or modules and are none
OTHERS = {"rnc1.call", "ncfast.json"}


def name_of(page):
    return page.relative_to(ROOT).as_posix()


pages = pytest.mark.parametrize("page", PAGES, ids=name_of)


@cache
def help_of(command):
    text = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(text):
        cli.main([command, "--help"])
    return text.getvalue()


def calls(text):
    """Calls of `ncfast` in consoles, indented blocks and backticks: a command, its arguments."""
    lines = [line.strip().removeprefix("$ ") for line in text.split("\n")]
    quoted = re.findall(r"`([^`\n]*ncfast [^`\n]*)`", text)
    for line in [line for line in lines if re.match(r"\S*ncfast |torchrun ", line)] + quoted:
        found = CALL.search(line)
        if found:
            yield found[1], found[2].partition("#")[0]


@pages
def test_options_of_commands_exist(page, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    pytest.importorskip("tyro", reason="needs the extra [experiments]")
    for command, arguments in calls(page.read_text()):
        for option in re.findall(r"(?<!\S)--[a-z][\w-]*", arguments):
            assert re.search(rf"{option}(?![\w-])", help_of(command)), f"{command} {option}"


def quoted(page):
    return sorted(set(re.findall(r"`([^`\n]+)`", page.read_text())) - OTHERS)


@pages
def test_metric_ids_exist(page):
    for text in quoted(page):
        for name in re.findall(rf"(?<![\w./-])((?:{FAMILIES})\.[a-z]\w*)\b", text):
            assert name in OTHERS or ncfast.describe(name).id == name


@pages
def test_names_of_the_package_exist(page):
    for text in quoted(page):
        found = re.fullmatch(r"ncfast((?:\.\w+)+)(\(.*\))?", text)
        value = ncfast
        for name in found[1].split(".")[1:] if found else ():
            if not hasattr(value, name):
                importlib.import_module(f"{value.__name__}.{name}")
            value = getattr(value, name)


@pages
def test_files_and_targets_exist(page):
    text = page.read_text()
    for path in re.findall(
        r"`((?:ncfast|csrc|kernels|tests|benchmarks|examples|docs)/[^`\s:]+)`", text
    ):
        if not {"*", "{"} & set(path) and "NAME" not in path:
            assert (ROOT / path).exists(), path
    for path in re.findall(
        r"(?:python|bash) ((?:benchmarks|examples|tests)/[\w/]+\.(?:py|sh))", text
    ):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"(?:`|^\$ )make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
