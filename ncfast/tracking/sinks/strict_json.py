"""Records as JSON that every reader takes: no NaN or infinity stands where JSON has numbers.

A value that is not finite is null in its place, and one string field lists all of them:
``{"step": 3, "train/x": null, "train/y": null, "nonfinite": "train/x=nan train/y=inf"}``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ncfast.tracking.numbers import NONFINITE

_WORDS = ("nan", "inf", "-inf")


def json_line(record: Mapping[str, object]) -> str:
    """A record as a line of strict JSON; `restored` undoes it.

    Example:
        >>> json_line({"step": 3, "a": math.nan, "b": 1.0}).rstrip()
        '{"step": 3, "a": null, "b": 1.0, "nonfinite": "a=nan"}'
    """
    found, names = strict(record), listed(record)
    return json.dumps(found | {NONFINITE: names} if names else found) + "\n"


def strict(record: Mapping[str, object]) -> dict[str, object]:
    """The record with null for what is not finite."""
    return {key: None if _word(value) else value for key, value in record.items()}


def listed(record: Mapping[str, object]) -> str:
    """The values that are not finite: ``key=nan``, ``key=inf``, ``key=-inf``, with spaces."""
    return " ".join(f"{key}={word}" for key, x in record.items() if (word := _word(x)))


def restored(record: dict[str, Any]) -> dict[str, Any]:
    """A record that was read, with NaN and infinities in their places again.

    Example:
        >>> restored({"step": 3, "a": None, "nonfinite": "a=-inf"})
        {'step': 3, 'a': -inf}
    """
    names = record.pop(NONFINITE, None)
    missing = [key for key, value in record.items() if value is None] if names else []
    rest = f" {names} "
    for key in sorted(missing, key=len, reverse=True):  # keys may hold spaces and other keys
        for word in _WORDS:
            if f" {key}={word} " in rest:
                rest = rest.replace(f" {key}={word} ", " ", 1)
                record[key] = float(word)
                break
    return record


def _word(value: object) -> str:
    """How a value that is not finite is listed; empty for any other."""
    if not isinstance(value, float) or math.isfinite(value):
        return ""
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
