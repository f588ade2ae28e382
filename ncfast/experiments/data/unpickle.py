"""Reads pickles of NumPy arrays and built-in containers, and refuses all others."""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # protocol 2 uses it for bytes
}


class UnsafePickleError(pickle.UnpicklingError):
    """The pickle refers to something other than arrays and built-in containers."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise UnsafePickleError(f"names {module}.{name}, which is no array")
        if module == "numpy.core.multiarray":
            module = "numpy._core.multiarray"  # the name since NumPy 2
            try:
                return super().find_class(module, name)
            except ModuleNotFoundError:  # NumPy 1
                module = "numpy.core.multiarray"
        return super().find_class(module, name)


def load_arrays(raw: bytes) -> Any:
    """Unpickle ``raw``; strings of Python 2 become bytes.

    Raises:
        UnsafePickleError: the pickle refers to something other than arrays and built-in
            containers. Nothing of it is called.
        ValueError: the pickle is damaged.
    """
    for opcode, argument, _ in pickletools.genops(raw):
        # the unpickler makes a table of that size, however short the file is
        if opcode.name in ("PUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= len(raw):
            raise UnsafePickleError(f"names the entry {argument} of a table of {len(raw)} at most")
    return _ArrayUnpickler(io.BytesIO(raw), encoding="bytes").load()
