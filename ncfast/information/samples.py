"""What the user passes in, as float64 rows: tensors on any device, NumPy arrays, half precision."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = Tensor | NDArray[np.generic]


def as_samples(name: str, value: Array) -> Tensor:
    """(N, d) float64 rows on the argument's device; one dimension is one column.

    Raises:
        TypeError: neither tensor nor array, or neither real numbers nor integers.
        ValueError: wrong shape, no row, NaN or infinite entries, a device without float64.
    """
    rows = _as_tensor(name, value)
    if rows.dtype.is_complex or rows.dtype == torch.bool:
        raise TypeError(
            f"Expected argument `{name}` to hold real numbers but got {rows.dtype}. "
            f"Convert it, for example {name}.to(torch.float32)."
        )
    if rows.ndim not in (1, 2) or rows.numel() == 0:
        raise ValueError(
            f"Expected argument `{name}` to have shape (N,) or (N, d) with N, d > 0 but got "
            f"{tuple(rows.shape)}. Flatten it with {name}.flatten(1)."
        )
    if rows.device.type == "mps":
        raise ValueError(
            f"Expected argument `{name}` on a device with float64 arithmetic but got mps. "
            f"Move it to the CPU: {name}.cpu()."
        )
    rows = rows.detach().to(torch.float64).reshape(len(rows), -1).contiguous()
    _check_finite(name, rows)
    return rows


def _as_tensor(name: str, value: Array) -> Tensor:
    if isinstance(value, np.ndarray):
        # a copy, because torch shares neither read-only arrays nor negative strides
        return torch.from_numpy(np.array(value, order="C"))
    if not isinstance(value, Tensor):
        raise TypeError(
            f"Expected argument `{name}` to be a torch.Tensor or a NumPy array but got "
            f"{type(value).__name__}. Convert it with torch.as_tensor({name})."
        )
    return value


def _check_finite(name: str, rows: Tensor) -> None:
    bad = ~torch.isfinite(rows)
    if bool(bad.any()):
        row, column = bad.nonzero()[0].tolist()
        raise ValueError(
            f"Expected argument `{name}` to be finite but row {row} holds "
            f"{float(rows[row, column])} in column {column}. Drop such rows, or find out where "
            "the model diverged."
        )


def as_classes(name: str, value: Array) -> Tensor:
    """(N,) int64 class numbers 0..K-1 without gaps, on the argument's device.

    Raises:
        TypeError: not integers.
        ValueError: not one dimension, or empty.
    """
    labels = _as_tensor(name, value)
    if labels.dtype.is_floating_point or labels.dtype.is_complex:
        raise TypeError(
            f"Expected argument `{name}` to hold integers but got {labels.dtype}. "
            f"Pass class indices: {name}.long()."
        )
    if labels.ndim != 1 or len(labels) == 0:
        raise ValueError(
            f"Expected argument `{name}` to have shape (N,) with N > 0 but got "
            f"{tuple(labels.shape)}. For one-hot rows use {name}.argmax(1)."
        )
    return torch.unique(labels.detach().to(torch.int64), return_inverse=True)[1]


def check_same(**blocks: Tensor) -> None:
    """Check that all blocks have the same number of rows and live on one device.

    Raises:
        ValueError: they do not; both arguments are named.
    """
    (first, one), *others = blocks.items()
    for name, other in others:
        if len(one) != len(other):
            raise ValueError(
                f"Expected arguments `{first}` and `{name}` to have the same length but got "
                f"{len(one)} and {len(other)}. Row i of both must be the same sample."
            )
        if one.device != other.device:
            raise ValueError(
                f"Expected arguments `{first}` and `{name}` on the same device but got "
                f"{one.device} and {other.device}. Move one of them."
            )


def check_k(k: int, samples: int) -> None:
    """Check the number of neighbours against the number of samples.

    Raises:
        TypeError: `k` is not an int.
        ValueError: `k` is below one, or not below the number of samples.
    """
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"Expected argument `k` to be an int but got {type(k).__name__}.")
    if not 1 <= k < samples:
        raise ValueError(
            f"Expected argument `k` to lie in 1..{samples - 1} for {samples} samples but got {k}. "
            "A sample has only the others as neighbours: pass more samples or a smaller k."
        )


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Check that an option is one of those offered.

    Raises:
        ValueError: it is not; the choices are listed.
    """
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"Expected argument `{name}` to be one of {listed} but got {value!r}.")
