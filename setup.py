"""Builds the optional C++ backend; everything else is declared in pyproject.toml.

The install never fails for want of a compiler: the reason is written to
``ncfast/_build_info.json``, where ``ncfast info`` finds it.
"""

import json
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
SOURCES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*.cpp"))


class OptionalBuildExt(build_ext):
    """Compile when possible; otherwise record why not and carry on."""

    def run(self):
        try:
            super().run()
        except Exception as error:  # any failure here must leave a working pure-Python install
            self._record(built=False, reason=f"{type(error).__name__}: {error}")
            self.extensions = []
        else:
            self._record(built=True, reason="")

    def _record(self, **info):
        folder = ROOT if self.inplace else Path(self.build_lib)
        target = folder / "ncfast" / "_build_info.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(info) + "\n")


def extensions():
    if not SOURCES:
        return []
    try:
        from pybind11.setup_helpers import Pybind11Extension
    except ImportError:
        return []
    return [Pybind11Extension("ncfast._C", SOURCES, cxx_std=17, extra_compile_args=["-O3"])]


setup(ext_modules=extensions(), cmdclass={"build_ext": OptionalBuildExt})
