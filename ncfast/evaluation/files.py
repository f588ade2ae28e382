"""Reads rows of features and labels from one file or several, in blocks."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ncfast._validate import FEATURE_DTYPES, LABEL_DTYPES
from ncfast.evaluation.formats import FORMATS, open_stored
from ncfast.evaluation.stored import FileError, Stored
from ncfast.ops._raw import as_int64

PathLike = str | os.PathLike[str]
Paths = PathLike | Sequence[PathLike]
FEATURES = ("feats", "features", "feat", "embeddings", "embedding", "x", "X")
LABELS = ("labels", "label", "targets", "target", "y")
WEIGHT, BIAS = ("weight", "w", "W"), ("bias", "b")
_MOST_CLASSES = 1 << 18  # more classes than any vocabulary has


@dataclass(frozen=True)
class Rows:
    """An array whose rows lie in one file or in several, one after the other.

    Attributes:
        name: the files, for messages.
        parts: the arrays of the files.
    """

    name: str
    parts: tuple[Stored, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of all parts together."""
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of every part."""
        return self.parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self, start: int, stop: int, rows: int) -> Iterator[Tensor]:
        """Rows start to stop, in blocks of exactly ``rows``; the last may be shorter."""
        return _regrouped(self._blocks(start, stop, rows), rows)

    def whole(self) -> Tensor:
        """All rows in one tensor."""
        return torch.cat(list(self._blocks(0, len(self), max(len(self), 1))))

    def _blocks(self, start: int, stop: int, rows: int) -> Iterator[Tensor]:
        position = 0
        for part in self.parts:
            first, last = max(start - position, 0), min(stop - position, part.shape[0])
            if first < last:
                yield from part.blocks(first, last, rows)
            position += part.shape[0]


def _regrouped(blocks: Iterable[Tensor], rows: int) -> Iterator[Tensor]:
    held: list[Tensor] = []
    for block in blocks:
        rest = block
        while len(rest) and (missing := rows - sum(map(len, held))) <= len(rest):
            yield torch.cat([*held, rest[:missing]])
            held, rest = [], rest[missing:]
        held += [rest] if len(rest) else []
    if held:
        yield torch.cat(held)


def open_rows(paths: Paths, names: Sequence[str]) -> Rows:
    """Open the array in one file, in the files of a folder or glob, or in a list of files.

    Files of a folder or glob come in the order of their names, with numbers counted as numbers.
    "FILE:NAME" takes one array of a file that holds several.

    Args:
        paths: a path, a glob such as "part-*.npy", a folder, or a sequence of these.
        names: usual names of the array, for a file that holds several.

    Raises:
        FileError: see `open_stored`; or the files differ in row shape or dtype.
        FileNotFoundError: nothing is there.
    """
    single = isinstance(paths, (str, os.PathLike))
    entries: Iterable[PathLike] = [paths] if single else paths  # type: ignore[list-item, assignment]
    found = [file for entry in entries for file in _expanded(os.fspath(entry))]
    if not found:
        raise FileError("Expected at least one file but got an empty list.")
    parts = [open_stored(path, key, names) for path, key in found]
    for (path, _), part in zip(found, parts, strict=True):
        _check_alike(found[0][0], parts[0], path, part)
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return Rows(f"{found[0][0]}{more}", tuple(parts))


def _check_alike(first_path: Path, first: Stored, path: Path, part: Stored) -> None:
    if not part.shape:
        raise FileError(f"{path}: expected rows but got a single number.")
    if part.shape[1:] != first.shape[1:] or part.dtype != first.dtype:
        raise FileError(
            f"{path}: expected rows of shape {first.shape[1:]} and {first.dtype}, as in "
            f"{first_path}, but got {part.shape[1:]} and {part.dtype}."
        )


def _expanded(entry: str) -> list[tuple[Path, str | None]]:
    path = Path(entry)
    if path.is_dir():
        inside = sorted((p for p in path.iterdir() if p.suffix.lower() in FORMATS), key=_natural)
        if not inside:
            raise FileNotFoundError(f"{path}: the folder holds none of {', '.join(FORMATS)}.")
        return [(file, None) for file in inside]
    matches = [path] if path.exists() else sorted(map(Path, glob.glob(entry)), key=_natural)
    if matches:
        return [(file, None) for file in matches]
    before, colon, key = entry.rpartition(":")
    if colon and Path(before).suffix.lower() in FORMATS:
        return [(file, key) for file, _ in _expanded(before)]
    if glob.has_magic(entry):
        raise FileNotFoundError(f"{entry}: no file has such a name.")
    return [(path, None)]


def _natural(path: Path) -> tuple[list[list[tuple[int, str]]], Path]:
    """A sort key that puts part-2 before part-10, folder by folder; no two paths have the same."""
    return [_numbered(part) for part in path.parts], path


def _numbered(name: str) -> list[tuple[int, str]]:
    return [(int(t), "") if t.isdecimal() else (-1, t) for t in re.split(r"(\d+)", name)]


def open_features(paths: Paths) -> Rows:
    """Open features (N, D), or (N, T, D) of tokens, in floats of 16 to 64 bits.

    Raises:
        FileError: see `open_rows`; another shape or dtype, or no row.
    """
    rows = open_rows(paths, FEATURES)
    if rows.dtype not in FEATURE_DTYPES:
        raise FileError(
            f"{rows.name}: expected features in float16, bfloat16, float32 or float64 but got "
            f"{rows.dtype} of shape {rows.shape}."
        )
    if len(rows.shape) not in (2, 3) or 0 in rows.shape:
        raise FileError(
            f"{rows.name}: expected features of shape (N, D), or (N, T, D) of tokens, but got "
            f"{rows.shape}. Flatten or pool feature maps first."
        )
    return rows


def open_labels(paths: Paths, feats: Rows) -> Rows:
    """Open the labels of ``feats``: integers, one for each row.

    Raises:
        FileError: see `open_rows`; another dtype, or another length than that of the features.
    """
    rows = open_rows(paths, LABELS)
    if rows.dtype not in LABEL_DTYPES:
        raise FileError(
            f"{rows.name}: expected integer labels but got {rows.dtype} of shape {rows.shape}. "
            "Save class indices, such as labels.astype('int64') or one_hot.argmax(1)."
        )
    if rows.shape != feats.shape[:-1]:
        raise FileError(
            f"{rows.name}: expected labels of shape {feats.shape[:-1]} for features of shape "
            f"{feats.shape} but got {rows.shape}."
        )
    return rows


def check_range(labels: Rows, num_classes: int | None, ignore_index: int | None) -> int:
    """K, after reading all labels: ``num_classes``, or the largest label plus one.

    Raises:
        FileError: a label lies outside 0..K-1 and is not ``ignore_index``; or K is not given, and
            the label exceeds the number of labels and any vocabulary: the state takes 8 K D bytes.
    """
    size, largest, most = 1 << 20, -1, max(len(labels), _MOST_CLASSES)
    for number, block in enumerate(labels.blocks(0, len(labels), size)):
        wide = as_int64(block)
        left_out = wide == ignore_index if ignore_index is not None else wide != wide
        bad = ~left_out & ((wide < 0) | (wide >= (num_classes or most)))
        if bool(bad.any()):
            where = bad.nonzero()[0].tolist()
            label = block[tuple(where)].item()  # int() would refuse one of uint64 from 2^63 on
            raise _out_of_range(labels, number * size + where[0], int(label), num_classes)
        largest = max(largest, int(wide.masked_fill(left_out, -1).max()))
    if largest < 0:
        raise FileError(f"{labels.name}: every label is {ignore_index}, which is left out.")
    return largest + 1 if num_classes is None else num_classes


def _out_of_range(labels: Rows, row: int, label: int, num_classes: int | None) -> FileError:
    last = "K-1" if num_classes is None else num_classes - 1
    remedy = " Pass num_classes if that is a class." if num_classes is None and label > 0 else ""
    return FileError(
        f"{labels.name}: expected labels in 0..{last} but row {row} holds {label}.{remedy}"
    )
