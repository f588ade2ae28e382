"""Opens one array of a .npy, .npz, .pt, .safetensors or .parquet file and reads it in blocks."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncfast._optional import need


class FileError(ValueError):
    """A file does not hold what was asked for: one line that begins with the name of the file."""


@dataclass(frozen=True)
class Stored:
    """An array in a file.

    Attributes:
        shape: its size; rows first.
        dtype: of the blocks.
        blocks: ``blocks(start, stop, rows)`` reads rows start to stop, at most ``rows`` at a time.
            Each block is a tensor in memory of its own.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    blocks: Callable[[int, int, int], Iterator[Tensor]]


def open_stored(path: Path, key: str | None, names: Sequence[str]) -> Stored:
    """Open the array ``key`` of a file, without reading its rows.

    A .npy, .safetensors or uncompressed .pt file is mapped; a .npz and a .parquet file is read from
    front to back.

    Args:
        path: the file; its suffix names the format.
        key: the array or column; None takes the only one, or the first of ``names`` that is there.
        names: usual names of what is looked for.

    Raises:
        FileError: the format is unknown, the file is damaged, it holds Python objects, or it is
            unclear which array is meant.
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: the package that reads the format is not installed.
    """
    if path.suffix not in FORMATS:
        raise FileError(f"{path}: expected one of {', '.join(FORMATS)} but got {path.suffix!r}.")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        return FORMATS[path.suffix](path, key, names)
    except (FileError, ModuleNotFoundError):
        raise
    except Exception as error:  # each library raises what it likes for a damaged file
        text = " ".join(str(error).split())
        raise FileError(f"{path}: cannot be read as {path.suffix}: {text[:200]}") from error


def _npy(path: Path, key: str | None, names: Sequence[str]) -> Stored:
    if key is not None:
        raise FileError(f"{path}: expected no key for a .npy file, which holds one array.")
    with path.open("rb") as file:
        _refuse_objects(path, _npy_header(file)[2])
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return _mapped(path, array)


def _mapped(path: Path, array: Any) -> Stored:
    native = array.dtype.newbyteorder("=")

    def blocks(start: int, stop: int, rows: int) -> Iterator[Tensor]:
        for first in range(start, stop, rows):
            yield torch.from_numpy(np.array(array[first : min(first + rows, stop)], native))

    return Stored(array.shape, _torch_dtype(path, native), blocks)


def _npz(path: Path, key: str | None, names: Sequence[str]) -> Stored:
    with zipfile.ZipFile(path) as archive:
        keys = [name.removesuffix(".npy") for name in archive.namelist()]
        member = _pick(path, keys, key, names) + ".npy"
        with archive.open(member) as file:
            shape, fortran, dtype = _npy_header(file)
    _refuse_objects(path, dtype)
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

    return Stored(shape, _torch_dtype(path, native), blocks)


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _exactly(path: Path, file: Any, size: int) -> bytes:
    found: bytes = file.read(size)
    if len(found) != size:
        raise FileError(f"{path}: ends before its last row.")
    return found


def _refuse_objects(path: Path, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise FileError(
            f"{path}: holds Python objects, which are not loaded because they can run code. Save "
            "an array of numbers, such as np.stack(rows)."
        )


def _torch_dtype(path: Path, dtype: np.dtype[Any]) -> torch.dtype:
    try:
        return torch.from_numpy(np.empty(0, dtype)).dtype
    except TypeError:
        raise FileError(f"{path}: expected numbers that torch has but got {dtype}.") from None


def _pt(path: Path, key: str | None, names: Sequence[str]) -> Stored:
    found = _load(path)
    if isinstance(found, dict):
        tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        found = tensors[_pick(path, list(tensors), key, names)]
    elif key is not None:
        raise FileError(f"{path}: expected a dict of tensors for the key {key!r}.")
    if not isinstance(found, Tensor) or found.layout != torch.strided or found.is_quantized:
        raise FileError(f"{path}: expected a dense tensor, or a dict of them.")
    tensor = found.detach()

    def blocks(start: int, stop: int, rows: int) -> Iterator[Tensor]:
        for first in range(start, stop, rows):
            yield tensor[first : min(first + rows, stop)].clone()

    return Stored(tuple(tensor.shape), tensor.dtype, blocks)


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
    rows_of = file.get_slice(_pick(path, list(file.keys()), key, names))
    shape = tuple(rows_of.get_shape())
    if not shape:
        raise FileError(f"{path}: expected rows but got a single number.")

    def blocks(start: int, stop: int, rows: int) -> Iterator[Tensor]:
        for first in range(start, stop, rows):
            yield rows_of[first : min(first + rows, stop)]

    return Stored(shape, rows_of[0:0].dtype, blocks)


def _parquet(path: Path, key: str | None, names: Sequence[str]) -> Stored:
    file = need("pyarrow.parquet", f"{path}").ParquetFile(path, memory_map=True)
    columns = _columns(path, file.schema_arrow, key, names)
    count = file.metadata.num_rows

    def blocks(start: int, stop: int, rows: int) -> Iterator[Tensor]:
        groups, first = _row_groups(file.metadata, start, stop)
        for batch in file.iter_batches(rows, groups, columns):
            last = first + len(batch)
            if last > start and first < stop:
                part = batch.slice(max(start - first, 0), min(stop, last) - max(start, first))
                yield _of_columns(path, part, width)
            first = last

    width: tuple[int, ...] | None = None
    example = next(blocks(0, min(count, 1), 1), torch.empty(0))
    width = tuple(example.shape[1:])
    return Stored((count, *width), example.dtype, blocks)


def _columns(path: Path, schema: Any, key: str | None, names: Sequence[str]) -> list[str]:
    """One column, or all columns of floats where none has a usual name: (N, D) in D columns."""
    types = dict(zip(schema.names, map(str, schema.types), strict=True))
    floats = [name for name, kind in types.items() if kind in ("halffloat", "float", "double")]
    if key is None and len(floats) > 1 and not {*names} & {*types}:
        return floats
    return [_pick(path, list(types), key, names)]


def _row_groups(metadata: Any, start: int, stop: int) -> tuple[list[int], int]:
    """The row groups that hold rows start to stop, and the first row of the first of them."""
    groups, first, position = list[int](), 0, 0
    for index in range(metadata.num_row_groups):
        last = position + metadata.row_group(index).num_rows
        if last > start and position < stop:
            first = position if not groups else first
            groups.append(index)
        position = last
    return groups, first


def _of_columns(path: Path, batch: Any, width: tuple[int, ...] | None) -> Tensor:
    found = [_of_column(path, name, batch.column(name)) for name in batch.schema.names]
    block = found[0] if len(found) == 1 else torch.stack(found, 1)
    if width is not None and block.shape[1:] != width:
        raise FileError(
            f"{path}: expected lists of {width[0]} numbers in column {batch.schema.names[0]!r}, as "
            f"in the first row, but got {block.shape[1]} in another."
        )
    return block


def _of_column(path: Path, name: str, column: Any) -> Tensor:
    """(N,) of a column of numbers, (N, D) of one of lists."""
    if column.null_count:
        raise FileError(f"{path}: column {name!r} has empty cells. Drop those rows.")
    shape: tuple[int, ...] = (len(column),)
    if "list" in str(column.type):
        lengths = need("pyarrow.compute", f"{path}").list_value_length(column).unique().to_pylist()
        if len(lengths) > 1:
            raise FileError(
                f"{path}: expected lists of one length in column {name!r} but got lengths from "
                f"{min(lengths)} to {max(lengths)}."
            )
        shape = (len(column), *lengths)
        column = column.flatten()
        if column.null_count:
            raise FileError(f"{path}: lists of column {name!r} have empty entries.")
    found = column.to_numpy(zero_copy_only=False)
    _refuse_objects(path, found.dtype)
    _torch_dtype(path, found.dtype)
    return torch.from_numpy(np.array(found)).reshape(shape)


def _pick(path: Path, keys: list[str], key: str | None, names: Sequence[str]) -> str:
    wanted = [key] if key is not None else [*names, *(keys if len(keys) == 1 else [])]
    found = next((name for name in wanted if name in keys), None)
    if found is None:
        asked = "" if key is None else f" but not {key!r}"
        raise FileError(f"{path}: holds {keys}{asked}. Name one of them: {path}:NAME.")
    return found


FORMATS: dict[str, Callable[[Path, str | None, Sequence[str]], Stored]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".pt": _pt,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
}
