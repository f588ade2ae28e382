"""Builds the optional C++ backend; lists the packages; the rest is in pyproject.toml.

The install never fails for want of a compiler: the reason is written to
``ncfast/_build_info.json``, where ``ncfast info`` finds it.
"""

import json
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

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


def files(pattern):
    found = (ROOT / "csrc").rglob(pattern)
    return sorted(str(path.relative_to(ROOT)) for path in found if path.parent.name != "tests")


class OptionalBuildExt(build_ext):
    """Compile when possible; otherwise record why not and carry on."""

    def run(self):
        # setuptools' own run clears `inplace`, and leaves it so when a compiler fails
        folder = ROOT if self.inplace else Path(self.build_lib)
        try:
            import pybind11
            from pybind11.setup_helpers import ParallelCompile

            ParallelCompile(default=0).install()  # a process for each core
            self.include_dirs = [*(self.include_dirs or []), "csrc", pybind11.get_include()]
            super().run()
        except Exception as error:  # any failure here must leave a working pure-Python install
            _record(folder, built=False, reason=f"{type(error).__name__}: {error}")
            self.extensions = []
        else:
            _record(folder, built=True, reason="")


def _record(folder, **info):
    target = folder / "ncfast" / "_build_info.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(info) + "\n")


extension = Extension(
    "ncfast._C",
    files("*.cpp"),
    depends=files("*.h"),
    language="c++",
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread"],
)
setup(
    # kernels/ and benchmarks/ lie outside the package's folder, where no search finds them
    packages=[
        *find_packages(include=["ncfast", "ncfast.*"]),
        "ncfast.kernels",
        "ncfast.benchmarks",
        *(f"ncfast.benchmarks.{name}" for name in find_packages("benchmarks")),
    ],
    ext_modules=[extension],
    cmdclass={"build_ext": OptionalBuildExt},
)
