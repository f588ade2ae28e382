"""Checks the keys that a user logs, and converts the values to numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from ncfast._strict_json import NONFINITE
from ncfast._validate import has_float64

_RESERVED = ("step", NONFINITE)


def as_number(key: str, value: Any) -> Tensor | float:
    """Convert a value to a Python number, or a tensor to a detached 0-d copy on its device.

    The host reads nothing of a tensor on an accelerator.

    Args:
        key: the key of the value, for the message.
        value: a Python, NumPy, `decimal` or `fractions` number, a bool, or a tensor or array of one
            element, of any real dtype.

    Raises:
        TypeError: the value is no number, or a tensor without data.
        ValueError: a float cannot hold the number.

    Example:
        >>> import numpy as np
        >>> from decimal import Decimal
        >>> [as_number("x", value) for value in (True, np.float32(0.5), Decimal("0.25"))]
        [1, 0.5, 0.25]
    """
    if type(value) is float:
        return value
    if isinstance(value, Tensor):
        return _of_tensor(key, value)
    if isinstance(value, (np.ndarray, np.generic)) or (
        hasattr(value, "__array__") and not isinstance(value, (str, bytes))
    ):
        return _of_array(key, np.ma.asanyarray(value))
    return _of_object(key, value)


def check_keys(values: object) -> None:
    """Check that ``values`` is a dict whose keys a user may log.

    Raises:
        TypeError: it is no dict, or a key is no string.
        ValueError: see `check_key`.
    """
    if not isinstance(values, Mapping):
        raise TypeError(
            "Expected argument `values` to be a dict of numbers but got "
            f"{_kind(values)}. Pass {{'name': number}}."
        )
    for key in values:
        check_key(key)


def check_key(key: object) -> None:
    """Check that a user may log a value under ``key``.

    Raises:
        TypeError: the key is no string.
        ValueError: the key is empty, reserved, or cannot be written as UTF-8.
    """
    if not isinstance(key, str):
        raise TypeError(
            f"Expected the keys of `values` to be strings but got {key!r}, {_kind(key)}. Pass "
            f"{{{str(key)!r}: ...}}."
        )
    if not key or key in _RESERVED:
        raise ValueError(
            f"Expected the keys of `values` to be names of your own but got {key!r}, which the "
            "records use. Choose another key."
        )
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Expected the keys of `values` to be text but got {key!a}, which has half of a "
            "surrogate pair. Choose another key."
        ) from error


def taken_key_error(key: str) -> ValueError:
    """The error for a user's key that the tracker writes itself."""
    return ValueError(
        f"Expected the keys of `values` to differ from what the tracker measures but got {key!r}. "
        f"Choose another key, such as {'own/' + key!r}."
    )


def _of_tensor(key: str, value: Tensor) -> Tensor:
    if value.is_nested:
        raise _no_number(key, "a nested tensor")
    if value.numel() != 1 or value.is_complex():
        raise _no_number(key, f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}")
    if value.is_meta or isinstance(value, FakeTensor):
        raise TypeError(
            f"Expected the value of {key!r} to hold a number but got a {_kind(value)} on "
            f"{value.device}, which has no data. Log a value that was computed on a real device."
        )
    if hasattr(value, "full_tensor"):  # a DTensor
        value = value.full_tensor()
    if value.is_quantized:
        value = value.dequantize()
    if value.layout != torch.strided:
        value = value.to_dense()
    # a copy: the caller may overwrite the tensor before the block is sent
    dtype = torch.float64 if has_float64(value.device) else value.dtype
    return value.detach().to(dtype, copy=True).reshape(())


def _of_array(key: str, value: Any) -> float:
    if value.size != 1 or value.dtype.kind not in "biufO" or np.ma.getmaskarray(value).any():
        what = "masked entries" if np.ma.is_masked(value) else f"dtype {value.dtype}"
        raise _no_number(key, f"an array of shape {value.shape} with {what}")
    return _of_object(key, value.item())


def _of_object(key: str, value: Any) -> float:
    if isinstance(value, int):  # remains exact, also where a float has too few digits
        return int(value) if abs(value) < 1 << 63 else _as_float(key, value)
    number = hasattr(type(value), "__float__") or hasattr(type(value), "__index__")
    if isinstance(value, complex) or not number:
        raise _no_number(key, f"{value!r:.40}, {_kind(value)}")
    return _as_float(key, value)


def _as_float(key: str, value: Any) -> float:
    """The value as a float; an error if only the float would be infinite."""
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    except (TypeError, ValueError) as error:
        raise _no_number(key, f"{value!r:.40}, {_kind(value)}") from error
    if math.isinf(found) and value != found:
        raise ValueError(
            f"Expected the value of {key!r} to fit into a float but got a {_kind(value)} beyond "
            "1.8e308. Log its logarithm."
        )
    return found


def _no_number(key: str, what: str) -> TypeError:
    return TypeError(
        f"Expected the value of {key!r} to be one real number but got {what}. Log a mean or one "
        f"entry, or each entry under its own key: {{f'{key}/{{i}}': x for i, x in enumerate(...)}}."
    )


def _kind(value: object) -> str:
    return type(value).__name__
