"""Opens one array of a .npy, .npz, .pt, .safetensors or .parquet file and reads it in blocks."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncfast._optional import need
from ncfast.evaluation.parquet import open_parquet
from ncfast.evaluation.stored import FileError, Stored, pick, refuse_objects, torch_dtype


def open_stored(path: Path, key: str | None, names: Sequence[str]) -> Stored:
    """Open the array ``key`` of a file, without reading its rows.

    A .npy, .safetensors or uncompressed .pt file is mapped; a .npz and a .parquet file is read from
    front to back.

    Args:
        path: the file; its suffix names the format.
        key: the array or column; None takes the only one, or the first of ``names`` that is there.
        names: usual names of the array.

    Raises:
        FileError: the format is unknown, the file is damaged, it holds Python objects, or it is
            unclear which array is meant.
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: the package that reads the format is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise FileError(f"{path}: expected one of {', '.join(FORMATS)} but got {path.suffix!r}.")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file.")
    if not path.is_file() and not path.is_dir():  # its end might never come
        raise FileError(f"{path}: expected a file but got a device or a pipe. Copy it to a file.")
    try:
        return FORMATS[suffix](path, key, names)
    except (FileError, ModuleNotFoundError):
        raise
    except Exception as error:  # libraries raise errors of many types for a damaged file
        text = " ".join(str(error).split())
        raise FileError(f"{path}: cannot be read as {suffix}: {text[:200]}") from error


def _npy(path: Path, key: str | None, names: Sequence[str]) -> Stored:
    if key is not None:
        raise FileError(f"{path}: expected no key for a .npy file, which holds one array.")
    with path.open("rb") as file:
        shape, _, dtype = _npy_header(file)
        refuse_objects(path, dtype)
        declared = file.tell() + dtype.itemsize * math.prod(shape)
    found = path.stat().st_size
    if found > declared:  # NumPy reads the first array of several, and says nothing
        raise FileError(
            f"{path}: expected {declared} bytes for one array of shape {shape} but the file holds "
            f"{found}. Save each array in a file of its own; a list of files is read in order."
        )
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return _mapped(path, array)


def _mapped(path: Path, array: Any) -> Stored:
    native = array.dtype.newbyteorder("=")
    copied = _in_blocks(lambda rows: torch.from_numpy(np.array(array[rows], native)))
    return Stored(array.shape, torch_dtype(path, native), copied)


def _in_blocks(read: Callable[[slice], Tensor]) -> Callable[[int, int, int], Iterator[Tensor]]:
    """`Stored.blocks` of a function that reads a slice of rows."""

    def blocks(start: int, stop: int, rows: int) -> Iterator[Tensor]:
        for first in range(start, stop, rows):
            yield read(slice(first, min(first + rows, stop)))

    return blocks


def _npz(path: Path, key: str | None, names: Sequence[str]) -> Stored:
    with zipfile.ZipFile(path) as archive:
        keys = [name.removesuffix(".npy") for name in archive.namelist()]
        member = pick(path, keys, key, names) + ".npy"
        with archive.open(member) as file:
            shape, fortran, dtype = _npy_header(file)
            refuse_objects(path, dtype)
            declared = file.tell() + dtype.itemsize * math.prod(shape)
        found = archive.getinfo(member).file_size  # more is never decompressed
    if found != declared:
        raise FileError(
            f"{path}: expected {member} to hold {declared} bytes, as its shape {shape} and dtype "
            f"{dtype} say, but it holds {found}. Save the file again."
        )
    if fortran and len(shape) > 1:  # columns first: rows lie apart, so the array is read whole
        with np.load(path, allow_pickle=False) as arrays:
            return _mapped(path, arrays[member.removesuffix(".npy")])
    native = dtype.newbyteorder("=")
    size = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))

    def blocks(start: int, stop: int, rows: int) -> Iterator[Tensor]:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            _npy_header(file)
            file.seek(start * size, 1)
            for first in range(start, stop, rows):
                count = min(rows, stop - first)
                found = np.frombuffer(_exactly(path, file, count * size), dtype)
                yield torch.from_numpy(found.reshape(count, *shape[1:]).astype(native))

    return Stored(shape, torch_dtype(path, native), blocks)


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    shape, fortran, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(
        file
    )
    if any(size < 0 for size in shape):
        raise ValueError(f"the header says that the array has the shape {shape}")
    return shape, fortran, dtype


def _exactly(path: Path, file: Any, size: int) -> bytes:
    found: bytes = file.read(size)
    if len(found) != size:
        raise FileError(f"{path}: ends before its last row.")
    return found


def _pt(path: Path, key: str | None, names: Sequence[str]) -> Stored:
    found = _load(path)
    if isinstance(found, dict):
        tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        found = tensors[pick(path, list(tensors), key, names)]
    elif key is not None:
        raise FileError(f"{path}: expected a dict of tensors for the key {key!r}.")
    if not isinstance(found, Tensor) or found.layout != torch.strided or found.is_quantized:
        raise FileError(f"{path}: expected a dense tensor, or a dict of them.")
    if found.is_meta:
        raise FileError(f"{path}: expected a tensor with values but got one on the device meta.")
    tensor = found.detach()
    return Stored(tuple(tensor.shape), tensor.dtype, _in_blocks(lambda rows: tensor[rows].clone()))


def _load(path: Path) -> Any:
    # the formats before torch 1.6 cannot be mapped
    mapped = zipfile.is_zipfile(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise FileError(
            f"{path}: holds objects other than tensors, which are not loaded because they can run "
            "code. Save a tensor, or a dict of tensors."
        ) from error


def _safetensors(path: Path, key: str | None, names: Sequence[str]) -> Stored:
    file = need("safetensors", f"{path}").safe_open(path, framework="pt")
    rows_of = file.get_slice(pick(path, list(file.keys()), key, names))
    shape = tuple(rows_of.get_shape())
    if not shape:
        raise FileError(f"{path}: expected rows but got a single number.")
    return Stored(shape, rows_of[0:0].dtype, _in_blocks(lambda rows: rows_of[rows]))


FORMATS: dict[str, Callable[[Path, str | None, Sequence[str]], Stored]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".pt": _pt,
    ".safetensors": _safetensors,
    ".parquet": open_parquet,
}
