"""Converts values of JSON to the types of the settings."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin


def convert(value: object, hint: Any) -> Any:
    """A value of JSON as the type of a setting.

    Raises:
        TypeError: it is of another type; the message is what was expected.

    Example:
        >>> convert([20, 20], tuple[int, ...]), convert(1, float), convert("mse", Literal["mse"])
        ((20, 20), 1.0, 'mse')
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        wanted = []
        for one in arguments:
            try:
                return convert(value, one)
            except TypeError as error:  # noqa: PERF203
                wanted.append(str(error))
        raise TypeError(" or ".join(wanted))
    if origin is Literal:
        if isinstance(value, str) and value in arguments:
            return value
        raise TypeError(f"one of {', '.join(arguments)}")
    if origin is tuple:
        if not isinstance(value, list):
            raise TypeError("a list")
        try:
            return tuple(convert(one, arguments[0]) for one in value)
        except TypeError as error:
            raise TypeError(f"a list, each {error}") from None
    return _scalar(value, hint)


_SCALARS = {
    type(None): "null",
    bool: "true or false",
    int: "an integer of 64 bits",
    float: "a number",
    str: "text",
    Path: "a path",
}


def _scalar(value: object, hint: Any) -> Any:
    stored: Any = {Path: str, float: (int, float)}.get(hint, hint)
    fits = isinstance(value, stored) and isinstance(value, bool) is (hint is bool)
    if fits and isinstance(value, int):
        fits = -(2**63) <= value < 2**63
    if fits and hint is Path:
        fits = isinstance(value, str) and "\0" not in value
    if not fits:
        raise TypeError(_SCALARS[hint])
    return hint(value) if hint in (Path, float) else value
