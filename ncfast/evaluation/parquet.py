"""Reads columns of a .parquet file as an array, one row group after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncfast._optional import need
from ncfast.evaluation.stored import FileError, Stored, pick, torch_dtype


def open_parquet(path: Path, key: str | None, names: Sequence[str]) -> Stored:
    """Open a column, of numbers (N,) or of lists (N, D), or numbered columns (N, D).

    Args:
        path: the file.
        key: a column; None takes one with a usual name, columns of floats with numbered names such
            as "f0", "f1", ..., or the only column.
        names: usual names.

    Raises:
        FileError: see `ncfast.evaluation.formats.open_stored`.
    """
    file = need("pyarrow.parquet", f"{path}").ParquetFile(path, memory_map=True)
    columns = _columns(path, file.schema_arrow, key, names)
    count = file.metadata.num_rows

    def blocks(start: int, stop: int, rows: int) -> Iterator[Tensor]:
        groups, first = _row_groups(file.metadata, start, stop)
        for batch in file.iter_batches(rows, groups, columns):
            last = first + len(batch)
            if last > start and first < stop:
                part = batch.slice(max(start - first, 0), min(stop, last) - max(start, first))
                yield _of_columns(path, part.select(columns), width)  # read in the file's order
            first = last

    width: tuple[int, ...] | None = None
    example = next(blocks(0, min(count, 1), 1), torch.empty(0))
    width = tuple(example.shape[1:])
    return Stored((count, *width), example.dtype, blocks)


def _columns(path: Path, schema: Any, key: str | None, names: Sequence[str]) -> list[str]:
    """The name of one column; or those of numbered columns of floats, if none has a usual name."""
    types = dict(zip(schema.names, map(str, schema.types), strict=True))
    floats = [name for name, kind in types.items() if kind in ("halffloat", "float", "double")]
    numbered: dict[str, list[str]] = {}
    for name in floats:
        if found := re.fullmatch(r"(.*?)\d+", name):
            numbered.setdefault(found[1], []).append(name)
    if key is None and len(numbered) == 1 and not {*names} & {*types}:
        (prefix,) = numbered
        others = [
            n for n in types if n not in floats and re.fullmatch(re.escape(prefix) + r"\d+", n)
        ]
        if others:  # left out, it would be missing from every metric
            raise FileError(
                f"{path}: expected floats in column {others[0]!r}, as in {numbered[prefix][0]!r}, "
                f"but got {types[others[0]]}. Convert it, or rename it if it holds labels."
            )
        return sorted(numbered[prefix], key=lambda name: int(name.removeprefix(prefix)))
    return [pick(path, list(types), key, names)]


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
    """The entries of a column: (N,) of numbers, (N, D) of lists."""
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
    if found.dtype.hasobject:
        raise FileError(
            f"{path}: expected numbers, or lists of numbers, in column {name!r} but got "
            f"{column.type}. Convert the column before it is saved."
        )
    torch_dtype(path, found.dtype)
    return torch.from_numpy(np.array(found)).reshape(shape)
