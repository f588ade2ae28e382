"""Reads MNIST and Fashion-MNIST from IDX files (LeCun's format), compressed by gzip or not."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from ncfast.experiments.data.images import ImageSet
from ncfast.experiments.data.sources import REMEDY_BROKEN, DataFileError, Source, check_file

FILES = {
    True: ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    False: ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_IMAGE = (28, 28)
_PIECE = 1 << 20
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
    if images.shape[1:] != _IMAGE:
        path, shape = _present(folder / images_name), tuple(images.shape)
        raise DataFileError(
            path, f"holds images {shape}", f"(N, {_IMAGE[0]}, {_IMAGE[1]})", REMEDY_BROKEN
        )
    path = _present(folder / labels_name)
    labels = _read(path, 1, source.md5[labels_name])
    if len(images) != len(labels):
        raise DataFileError(path, f"holds {len(labels)} labels", f"{len(images)}", REMEDY_BROKEN)
    if labels.max() >= len(source.classes):
        expected = f"labels 0 to {len(source.classes) - 1}"
        raise DataFileError(path, f"holds the label {labels.max()}", expected, REMEDY_BROKEN)
    return source.image_set(images.unsqueeze(1), labels)


def _present(path: Path) -> Path:
    """``path``, or else the uncompressed file as torchvision and other programs name it."""
    plain = path.with_suffix("")
    others = (plain, plain.with_name(plain.name.replace("-idx", ".idx")))
    return next((file for file in (path, *others) if file.is_file()), path)


def _read(path: Path, ndim: int, md5: str) -> Tensor:
    check_file(path, f"a gzip file of md5 {md5}, or {path.stem} uncompressed")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _parse(path, cast(BinaryIO, file), ndim)
    except (OSError, EOFError, zlib.error) as error:
        raw = path.read_bytes()
        found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
        raise DataFileError(
            path,
            f"truncated or corrupt ({error}; {len(raw)} bytes, md5 {found})",
            f"md5 {md5}",
            REMEDY_BROKEN,
        ) from error


def _parse(path: Path, file: BinaryIO, ndim: int) -> Tensor:
    header = 4 + 4 * ndim
    magic = bytes([0, 0, 8, ndim])  # two zeros, type unsigned byte, number of dimensions
    raw = _up_to(file, header)
    if raw[:4] != magic or len(raw) < header:
        raise DataFileError(
            path, f"starts with {bytes(raw[:4])!r}", f"IDX magic {magic!r}", REMEDY_BROKEN
        )
    shape = struct.unpack(f">{ndim}I", raw[4:])
    size = math.prod(shape)
    if not size:
        raise DataFileError(path, f"has the shape {shape}", "at least one sample", REMEDY_BROKEN)
    values = _up_to(file, size)
    more = len(file.read(1))  # the end of a gzip file is also where its checksum is compared
    if len(values) != size or more:
        held = "more than" if more else "holds"
        raise DataFileError(
            path,
            f"{held} {header + len(values)} bytes uncompressed",
            f"{header + size} for shape {shape}",
            REMEDY_BROKEN,
        )
    return torch.frombuffer(values, dtype=torch.uint8).view(shape)


def _up_to(file: BinaryIO, size: int) -> bytearray:
    """The next ``size`` bytes, or those up to the end; takes no more memory than there are."""
    found = bytearray()
    while len(found) < size and (piece := file.read(min(_PIECE, size - len(found)))):
        found += piece
    return found
