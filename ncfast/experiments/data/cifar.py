"""Reads CIFAR-10, in its binary and its Python layout."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ncfast.experiments.data.images import ImageSet
from ncfast.experiments.data.sources import REMEDY_BROKEN, DataFileError, Source, check_file

ROWS, PIXELS = 10_000, 3 * 32 * 32
BINARY, PYTHON = "cifar-10-batches-bin", "cifar-10-batches-py"


def load_cifar10(
    data_dir: Path, source: Source, train_size: int | None = None
) -> tuple[ImageSet, ImageSet]:
    """Read the training and the test split.

    Only as many training batches are read as ``train_size`` needs.

    Raises:
        DataFileError: a file is missing, truncated or corrupt, or holds other objects than arrays.
    """
    needed = 5 if train_size is None else min(5, max(1, -(-train_size // ROWS)))
    binary = (data_dir / BINARY / "data_batch_1.bin").exists()
    python = (data_dir / PYTHON / "data_batch_1").exists()
    if binary or not python:
        folder, read, suffix = data_dir / BINARY, _read_binary, ".bin"
    else:
        folder, read, suffix = data_dir / PYTHON, _read_python, ""
    train = [read(folder / f"data_batch_{i}{suffix}") for i in range(1, needed + 1)]
    test = read(folder / f"test_batch{suffix}")
    return _split(train, source), _split([test], source)


def _split(parts: Sequence[tuple[np.ndarray, np.ndarray]], source: Source) -> ImageSet:
    images = np.concatenate([part[0] for part in parts]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([part[1] for part in parts]).astype(np.int64)
    return source.image_set(torch.from_numpy(images), torch.from_numpy(labels))


def _read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    expected = ROWS * (1 + PIXELS)
    check_file(path, f"{expected} bytes")
    if path.stat().st_size != expected:
        raise DataFileError(
            path, f"holds {path.stat().st_size} bytes", f"{expected} bytes", REMEDY_BROKEN
        )
    rows = np.fromfile(path, np.uint8).reshape(ROWS, 1 + PIXELS)
    return _checked(path, rows[:, 1:], rows[:, 0])


def _read_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    check_file(path, "a CIFAR-10 python batch")
    try:
        batch: Any = load_arrays(path.read_bytes())
        data, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except UnsafePickleError as error:
        raise DataFileError(
            path, str(error), "a pickle of arrays and plain containers only", REMEDY_BROKEN
        ) from error
    except Exception as error:  # a damaged pickle can raise almost any exception
        raise DataFileError(
            path,
            f"truncated or corrupt ({type(error).__name__}: {' '.join(str(error).split())[:200]})",
            "a CIFAR-10 python batch",
            REMEDY_BROKEN,
        ) from error
    return _checked(path, data, labels)


def _checked(path: Path, data: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if data.dtype != np.uint8 or labels.dtype.kind not in "iu" or not labels.size:
        problem = f"holds {data.dtype} images and {labels.size} {labels.dtype} labels"
        raise DataFileError(path, problem, "uint8 images and integer labels", REMEDY_BROKEN)
    if labels.ndim != 1 or data.shape != (len(labels), PIXELS):
        problem = f"holds images of shape {data.shape} and labels of shape {labels.shape}"
        raise DataFileError(path, problem, f"(N, {PIXELS}) and (N,)", REMEDY_BROKEN)
    if labels.min() < 0 or labels.max() > 9:
        raise DataFileError(
            path,
            f"holds labels {labels.min()} to {labels.max()}",
            "0 to 9",
            REMEDY_BROKEN,
        )
    return data, labels


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
