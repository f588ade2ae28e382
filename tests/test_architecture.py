"""Tests that imports point one way: no layer imports from a layer above it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the bottom to the top, as docs/architecture.md draws them. A layer is one folder, or a few
# modules that may import each other.
LAYERS = {
    "shared": (
        "_arrays _files _html _interrupt _kept _optional _ranks _saved _strict_json "
        "_surroundings _validate _warnings"
    ),
    "kernels": "kernels",
    "ops": "ops",
    "moments": "moments distributed",
    "metrics": "metrics",
    "information": "information",
    "losses": "losses",
    "accumulator": "accumulator",
    "features": "features",
    "evaluation": "evaluation",
    "tracking": "tracking",
    "self-check": "self_check",
    "public names": "__init__",
    "integrations": "integrations",
    "experiments": "experiments",
    "benchmarks": "benchmarks",
    "command line": "cli _arguments __main__",
}
HEIGHTS = {name: at for at, names in enumerate(LAYERS.values()) for name in names.split()}

# These write `ncfast.__version__` into a file, and import the package where they do.
READ_THE_VERSION = {"ncfast/evaluation/result.py", "ncfast/tracking/keys.py"}


def part_of(name):
    """The part of the package an import names; names such as `ncfast.nc1` are of `__init__`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in HEIGHTS else "__init__"


def sources():
    """Every file of the package, and the part of the package it belongs to."""
    for folder in ("ncfast", "kernels", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            file = path.relative_to(ROOT)
            part = file.with_suffix("").parts[1] if folder == "ncfast" else folder
            yield file.as_posix(), part


def imports(tree):
    """The names that a file imports from ncfast, at its top or inside its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "ncfast")


def test_a_folder_is_a_layer_of_its_own():
    for names in LAYERS.values():
        folders = [name for name in names.split() if (ROOT / "ncfast" / name).is_dir()]
        assert not folders or names == folders[0], names


def test_the_folders_of_tests_are_those_of_the_code():
    kinds = {"promises", "interpreted", "ptx"}  # kinds of tests of one folder
    for file in (ROOT / "tests").rglob("test_*.py"):
        folder = file.parent.relative_to(ROOT / "tests")
        code = folder.parent if folder.name in kinds else folder
        assert (ROOT / "ncfast" / code).is_dir() or (ROOT / code).is_dir(), file


@pytest.mark.parametrize(("file", "part"), list(sources()))
def test_imports_point_down(file, part):
    for name in imports(ast.parse((ROOT / file).read_text())):
        if name != "ncfast" or file not in READ_THE_VERSION:
            assert HEIGHTS[part_of(name)] <= HEIGHTS[part], f"{file} imports {name} from above"
