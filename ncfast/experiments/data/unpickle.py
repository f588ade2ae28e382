"""Reads pickles that hold only NumPy arrays and plain containers; refuses all others."""

from __future__ import annotations

import io
import pickle
from typing import Any

_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # how protocol 2 writes bytes
}


class UnsafePickleError(pickle.UnpicklingError):
    """The pickle names something other than an array or a plain container."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise UnsafePickleError(f"names {module}.{name}, which is no array")
        if module == "numpy.core.multiarray":
            module = "numpy._core.multiarray"  # its name since NumPy 2
            try:
                return super().find_class(module, name)
            except ModuleNotFoundError:  # NumPy 1
                module = "numpy.core.multiarray"
        return super().find_class(module, name)


def load_arrays(raw: bytes) -> Any:
    """Unpickle ``raw``; strings of Python 2 come out as bytes.

    Raises:
        UnsafePickleError: it names anything but arrays and plain containers. Nothing is called.
    """
    return _ArrayUnpickler(io.BytesIO(raw), encoding="bytes").load()
