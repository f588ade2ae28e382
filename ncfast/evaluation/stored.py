"""`Stored`: an array in a file, and the checks that readers of all formats share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


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


def pick(path: Path, keys: list[str], key: str | None, names: Sequence[str]) -> str:
    """The key that is asked for, else the first usual name that is there, else the only key.

    Raises:
        FileError: none of these.
    """
    wanted = [key] if key is not None else [*names, *(keys if len(keys) == 1 else [])]
    found = next((name for name in wanted if name in keys), None)
    if found is None:
        if not keys:
            raise FileError(f"{path}: holds no array. Save one, or a dict of them without folders.")
        asked = "" if key is None else f" but not {key!r}"
        more = f" and {len(keys) - 20} more" if len(keys) > 20 else ""
        shown = f"{[name[:60] for name in keys[:20]]}{more}"
        raise FileError(f"{path}: holds {shown}{asked}. Name one of them: {path}:NAME.")
    return found


def refuse_objects(path: Path, dtype: np.dtype[Any]) -> None:
    """Raise FileError for an array of Python objects."""
    if dtype.hasobject:
        raise FileError(
            f"{path}: holds Python objects, which are not loaded because they can run code. Save "
            "an array of numbers, such as np.stack(rows)."
        )


def torch_dtype(path: Path, dtype: np.dtype[Any]) -> torch.dtype:
    """The dtype of torch for one of NumPy, or a FileError for text, dates and the like."""
    try:
        return torch.from_numpy(np.empty(0, dtype)).dtype
    except TypeError:
        raise FileError(f"{path}: expected numbers that torch has but got {dtype}.") from None
