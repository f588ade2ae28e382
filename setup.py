"""Builds the optional C++ extension and lists the packages; the rest is in pyproject.toml.

With a C++ compiler the extension is built, and an error of the compiler is an error of the
installation. Without one, or with ``NCFAST_PURE=1``, the installation is pure Python.
``ncfast/_build_info.json`` keeps which of them it was, and ``ncfast info`` shows it.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# Without fast contraction a strict -std=c++17 would split every fused multiply-add in two.
# Vectors are only ever passed between inlined functions, so their ABI does not matter.
FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",  # Python's own flags hold -g: fourteen times the size
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-pthread",
    "-Wno-psabi",
    "-Wno-uninitialized",
]
FAILED = """
The C++ extension of ncfast was not built; the message of the compiler is above.
Either mend what it names (often a missing Python.h: the headers of Python are a package such as
python3-dev), or install without the extension. All results are the same, many are slower:
    NCFAST_PURE=1 pip install ncfast
"""


def files(pattern):
    found = (ROOT / "csrc").rglob(pattern)
    return sorted(str(path.relative_to(ROOT)) for path in found if path.parent.name != "tests")


def long_description():
    """The README with absolute links: a package index shows it without the files beside it."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    home = re.search(r'^Repository = "(.+)"$', project, re.MULTILINE)[1]
    tag = "v" + re.search(r'^version = "(.+)"$', project, re.MULTILINE)[1]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    local = r"\]\((?!https?:|mailto:|#)"
    text = re.sub(rf"(!\[[^\]]*){local}", rf"\1]({home}/raw/{tag}/", text)
    return re.sub(local, f"]({home}/blob/{tag}/", text)


def why_pure():
    """The reason to leave the extension out; None if it is to be built."""
    if os.environ.get("NCFAST_PURE", "0") not in ("", "0"):
        return "NCFAST_PURE was set"
    if sys.platform == "win32":
        return "there is none for Windows"
    command = cxx()
    if shutil.which(command) is None:
        return f"there was no C++ compiler ({command} was not found)"
    return None


def cxx():
    """The program that setuptools calls to compile C++."""
    from setuptools._distutils.ccompiler import new_compiler
    from setuptools._distutils.sysconfig import customize_compiler

    compiler = new_compiler()
    customize_compiler(compiler)
    return getattr(compiler, "compiler_so_cxx", compiler.compiler_so)[0]


def record(folder, why_not):
    target = folder / "ncfast" / "_build_info.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"built": why_not is None, "reason": why_not or ""}) + "\n")


class BuildExtension(build_ext):
    """Compile in parallel; an error of the compiler ends the installation with the remedy."""

    def run(self):
        # setuptools' own run clears `inplace`, and leaves it so when a compiler fails
        folder = ROOT if self.inplace else Path(self.build_lib)
        try:
            import pybind11
            from pybind11.setup_helpers import ParallelCompile

            ParallelCompile(default=0).install()  # a process for each core
            self.include_dirs = [*(self.include_dirs or []), "csrc", pybind11.get_include()]
            super().run()
        except Exception as error:
            sys.exit(f"{type(error).__name__}: {error}\n{FAILED}")
        record(folder, None)


class BuildPython(build_py):
    """Copy the Python files, and record the reason of a pure installation."""

    def run(self):
        super().run()
        if reason is not None:
            record(ROOT if self.editable_mode else Path(self.build_lib), reason)


reason = why_pure()
extension = Extension(
    "ncfast._C",
    files("*.cpp"),
    depends=files("*.h"),
    language="c++",
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread"],
)
setup(
    long_description=long_description(),
    long_description_content_type="text/markdown",
    # kernels/ and benchmarks/ lie outside the package's folder, where no search finds them
    packages=[
        *find_packages(include=["ncfast", "ncfast.*"]),
        "ncfast.kernels",
        "ncfast.benchmarks",
        *(f"ncfast.benchmarks.{name}" for name in find_packages("benchmarks")),
    ],
    ext_modules=[] if reason else [extension],
    cmdclass={"build_ext": BuildExtension, "build_py": BuildPython},
)
