"""Converts the arguments of estimators to float64 rows or class numbers, and checks options."""

from __future__ import annotations

import numbers as numeric
from decimal import Decimal
from typing import SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ncfast._arrays import Array, as_array, as_integer
from ncfast._validate import check_device
from ncfast.ops.grouping import LabelPlan, Labels, labels_of


def as_samples(name: str, value: Array) -> Tensor:
    """(N, d) float64 rows on the argument's device; a vector becomes one column.

    The argument is a tensor, a NumPy array of any real dtype and byte order, a nested list or
    tuple, or any object that NumPy can read, such as columns of a data frame.

    Raises:
        TypeError: the argument is no array of real numbers; or it is a sparse, quantized or meta
            tensor.
        ValueError: wrong shape, no row, NaN, infinite or masked entries, or a device without
            float64.
    """
    rows = _plain(name, value) if isinstance(value, Tensor) else _numbers(name, value)
    if rows.dtype.is_complex or rows.dtype == torch.bool:
        raise _not_real(name, value, str(rows.dtype))
    if rows.ndim not in (1, 2) or rows.numel() == 0:
        raise ValueError(
            f"Expected argument `{name}` to have shape (N,) or (N, d) with N, d > 0 but got "
            f"{tuple(rows.shape)}. {_flatten(name, value, rows)}"
        )
    _check_device(name, rows)
    rows = rows.to(torch.float64).reshape(len(rows), -1).contiguous()
    _check_finite(name, rows)
    return rows


def as_classes(name: str, value: Labels) -> Tensor:
    """(N,) int64 class numbers 0..K-1 without gaps, on the argument's device.

    Labels are integers, booleans, strings or other objects that can be compared, or a `plan`.

    Raises:
        TypeError: the labels are real numbers, or cannot be compared.
        ValueError: the labels are not one-dimensional, empty or masked, or one is missing.
    """
    value = labels_of(value)
    labels = _plain(name, value) if isinstance(value, Tensor) else as_array(name, value)
    if labels.ndim != 1 or len(labels) == 0:
        raise ValueError(
            f"Expected argument `{name}` to have shape (N,) with N > 0 but got "
            f"{tuple(labels.shape)}. {_one_label(name, value, tuple(labels.shape))}"
        )
    if isinstance(labels, np.ndarray):
        return torch.from_numpy(_class_numbers(name, value, labels))
    if labels.dtype.is_floating_point or labels.dtype.is_complex:
        raise _not_classes(name, value, str(labels.dtype))
    _check_device(name, labels)
    return torch.unique(labels.to(torch.int64), return_inverse=True)[1]


def holds_classes(name: str, value: Labels) -> bool:
    """Whether an argument that may be features or labels holds one label per row.

    Python objects are labels, unless all of them are numbers and at least one is no integer.
    """
    if isinstance(value, LabelPlan):
        return True
    if isinstance(value, Tensor):
        whole = not (value.is_quantized or value.is_floating_point() or value.is_complex())
        return value.ndim == 1 and whole
    array = as_array(name, value)
    if array.ndim == 1 and array.dtype.kind == "O":
        numbers = all(isinstance(one, numeric.Number | Decimal) for one in array)
        return not numbers or all(isinstance(one, numeric.Integral) for one in array)
    return array.ndim == 1 and array.dtype.kind in "biuUST"


def _check_device(name: str, value: Tensor) -> None:
    check_device(name, value.device, f"Move it to the CPU: {name}.cpu().")


def _plain(name: str, value: Tensor) -> Tensor:
    """The detached tensor, after a check that it is dense and holds values."""
    if value.is_meta:
        raise TypeError(
            f"Expected argument `{name}` to hold values but got a tensor on the meta device. Pass "
            "a tensor with values."
        )
    if value.layout != torch.strided or value.is_quantized:
        kind, remedy = ("quantized", "dequantize") if value.is_quantized else ("sparse", "to_dense")
        raise TypeError(
            f"Expected argument `{name}` to be a plain tensor but got a {kind} one. "
            f"Pass {name}.{remedy}()."
        )
    return value.detach()


def _numbers(name: str, value: Array) -> Tensor:
    array = as_array(name, value)
    if array.dtype.kind == "b":
        raise _not_real(name, value, "bool")
    if array.dtype.kind in "OV" and any(isinstance(v, str | bytes) for v in array.flat):
        raise _not_real(name, value, "strings")
    if array.dtype.kind not in "fiuOV":
        raise _not_real(name, value, str(array.dtype))
    try:
        with np.errstate(over="ignore"):  # a value too large for float64 is reported as infinite
            # Copy: torch cannot share read-only arrays or negative strides.
            return torch.from_numpy(np.array(array, dtype=np.float64, order="C"))
    except (TypeError, ValueError):
        kind = type(value).__name__ if array.ndim == 0 else f"dtype {array.dtype}"
        raise _not_real(name, value, kind) from None


def _class_numbers(name: str, value: Array, labels: NDArray[np.generic]) -> NDArray[np.int64]:
    if labels.dtype.kind in "biuUST":
        return np.unique(labels, return_inverse=True)[1].astype(np.int64)
    if labels.dtype.kind != "O":
        raise _not_classes(name, value, str(labels.dtype))
    for row, label in enumerate(labels):
        if label is None or type(label).__name__ == "NAType" or label != label:
            raise ValueError(
                f"Expected argument `{name}` to hold a label in every row but row {row} holds "
                f"{label}. Drop such rows."
            )
        if isinstance(label, float):
            raise _not_classes(name, value, "float")
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return np.array([numbers[label] for label in labels], dtype=np.int64)


def _not_real(name: str, value: Array, found: str) -> TypeError:
    if isinstance(value, Tensor):
        remedy = f"{name}.to(torch.float64)"
        if value.is_complex():
            remedy = f"torch.view_as_real({name}).flatten(1)"
    elif found.startswith("complex"):
        remedy = f"np.column_stack((np.real({name}), np.imag({name})))"
    elif found == "bool":
        remedy = f"np.asarray({name}, dtype=float)"
    else:
        return TypeError(
            f"Expected argument `{name}` to hold real numbers but got {found}. "
            "For class names use label_information."
        )
    return TypeError(
        f"Expected argument `{name}` to hold real numbers but got {found}. Pass {remedy}."
    )


def _not_classes(name: str, value: Array, found: str) -> TypeError:
    if isinstance(value, Tensor):
        wanted, remedy = "integers", f"{name}.long()"
    else:
        wanted, remedy = "integers, booleans or strings", f"np.asarray({name}).astype(int)"
    return TypeError(
        f"Expected argument `{name}` to hold {wanted} but got {found}. Measured values are "
        f"not classes. If these are class numbers pass {remedy}."
    )


def _flatten(name: str, value: Array, rows: Tensor) -> str:
    if rows.ndim == 0:
        return "Pass one row per sample."
    if rows.numel() == 0:
        return "Pass at least one row and one column."
    if isinstance(value, Tensor):
        return f"Flatten it with {name}.flatten(1)."
    return f"Flatten it with np.reshape({name}, (len({name}), -1))."


def _one_label(name: str, value: Array, shape: tuple[int, ...]) -> str:
    tensor = isinstance(value, Tensor)
    if len(shape) != 2 or 0 in shape:
        return "Pass one label per sample."
    if shape[1] == 1:
        return f"Flatten it with {name}.flatten()." if tensor else f"Pass np.ravel({name})."
    chosen = f"{name}.argmax(1)" if tensor else f"np.argmax({name}, 1)"
    return f"For one-hot rows use {chosen}."


def _check_finite(name: str, rows: Tensor) -> None:
    bad = ~torch.isfinite(rows)
    if bool(bad.any()):
        row, column = bad.nonzero()[0].tolist()
        raise ValueError(
            f"Expected argument `{name}` to be finite but row {row} holds "
            f"{float(rows[row, column])} in column {column}. Drop such rows, or find out where "
            "the model diverged."
        )


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


def check_k(k: SupportsIndex, samples: int) -> int:
    """The number of neighbours, checked against the number of samples.

    Raises:
        TypeError: `k` is not an integer.
        ValueError: `k` is below one, or not below the number of samples.
    """
    k = as_integer("k", k)
    if samples < 2:
        raise ValueError(
            f"Expected at least two samples but got {samples}. The neighbours of a sample are the "
            "other samples."
        )
    if not 1 <= k < samples:
        raise ValueError(
            f"Expected argument `k` to lie in 1..{samples - 1} for {samples} samples but got {k}. "
            "Pass more samples or a smaller k."
        )
    return k


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Check that `value` is one of `choices`.

    Raises:
        ValueError: it is not; the message lists the choices.
    """
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"Expected argument `{name}` to be one of {listed} but got {value!r}.")
