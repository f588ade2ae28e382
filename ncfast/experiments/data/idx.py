"""Reads MNIST and Fashion-MNIST from IDX files (LeCun's format), compressed by gzip or not."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ncfast.experiments.data.errors import REMEDY_BROKEN, REMEDY_MISSING, DataFileError
from ncfast.experiments.data.images import ImageSet
from ncfast.experiments.data.sources import Source

FILES = {
    True: ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    False: ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def load_idx(folder: Path, source: Source) -> tuple[ImageSet, ImageSet]:
    """Read the training and the test split of an IDX dataset.

    Raises:
        DataFileError: a file is missing, truncated or corrupt.
    """
    train, test = (_split(folder, source, train=flag) for flag in (True, False))
    return train, test


def _split(folder: Path, source: Source, *, train: bool) -> ImageSet:
    images_name, labels_name = FILES[train]
    images = _read(_present(folder / images_name), 3, source.md5[images_name])
    labels = _read(_present(folder / labels_name), 1, source.md5[labels_name])
    if len(images) != len(labels):
        raise DataFileError(
            folder / labels_name, f"holds {len(labels)} labels", f"{len(images)}", REMEDY_BROKEN
        )
    return source.image_set(images.unsqueeze(1), labels)


def _present(path: Path) -> Path:
    """``path``, or else the uncompressed file as torchvision and other programs name it."""
    plain = path.with_suffix("")
    others = (plain, plain.with_name(plain.name.replace("-idx", ".idx")))
    return next((file for file in (path, *others) if file.is_file()), path)


def _read(path: Path, ndim: int, md5: str) -> Tensor:
    if not path.is_file():
        expected = f"a gzip file of md5 {md5}, or {path.stem} uncompressed"
        raise DataFileError(path, "no such file", expected, REMEDY_MISSING)
    if path.suffix != ".gz":
        return _parse(path, path.read_bytes(), ndim)
    compressed = path.read_bytes()
    try:
        raw = gzip.decompress(compressed)
    except (OSError, EOFError, zlib.error) as error:
        found = hashlib.md5(compressed, usedforsecurity=False).hexdigest()
        raise DataFileError(
            path,
            f"truncated or corrupt ({error}; {len(compressed)} bytes, md5 {found})",
            f"md5 {md5}",
            REMEDY_BROKEN,
        ) from error
    return _parse(path, raw, ndim)


def _parse(path: Path, raw: bytes, ndim: int) -> Tensor:
    header = 4 + 4 * ndim
    magic = bytes([0, 0, 8, ndim])  # two zeros, type unsigned byte, number of dimensions
    if raw[:4] != magic or len(raw) < header:
        raise DataFileError(path, f"starts with {raw[:4]!r}", f"IDX magic {magic!r}", REMEDY_BROKEN)
    shape = np.frombuffer(raw, ">u4", ndim, 4).astype(np.int64)
    if len(raw) != header + shape.prod():
        raise DataFileError(
            path,
            f"holds {len(raw)} bytes uncompressed",
            f"{header + shape.prod()} for shape {tuple(shape.tolist())}",
            REMEDY_BROKEN,
        )
    values = np.frombuffer(raw, np.uint8, offset=header).reshape(tuple(shape)).copy()
    return torch.from_numpy(values)
