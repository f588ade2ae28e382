"""Checks the options of estimators: integers, numbers of neighbours and choices."""

from __future__ import annotations

import operator
from typing import SupportsIndex

import numpy as np


def as_integer(name: str, value: SupportsIndex) -> int:
    """The value of an integer option as an int; NumPy integers are accepted.

    Raises:
        TypeError: the value is no integer, or a boolean.
    """
    try:
        if not isinstance(value, bool | np.bool_):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"Expected argument `{name}` to be an int but got {type(value).__name__}.")


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
