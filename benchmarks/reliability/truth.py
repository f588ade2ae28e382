"""What the fuzzed calls must give: class moments in long double, and the oracles of the tests."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ncfast.benchmarks.reliability.inputs import Sample

ROOT = Path(__file__).parent.parent.parent


def use_tests() -> None:
    """Make the modules of tests/ importable.

    Raises:
        FileNotFoundError: they are not part of an installation.
    """
    folder = ROOT / "tests"
    if not (folder / "oracle").is_dir():
        raise FileNotFoundError(f"{folder} does not exist: run this from a checkout of ncfast.")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def moments(x: Tensor, y: Tensor, classes: int) -> dict[str, np.ndarray[Any, Any]]:
    """Class moments by two passes in long double (80 bits on x86)."""
    rows, labels = x.numpy().astype(np.longdouble), y.numpy()
    dim = rows.shape[1]
    counts = np.zeros(classes, np.int64)
    means = np.zeros((classes, dim), np.longdouble)
    within = np.zeros(classes, np.longdouble)
    for c in range(classes):
        own = rows[labels == c]
        counts[c] = len(own)
        if len(own):
            means[c] = own.mean(0)
            within[c] = ((own - means[c]) ** 2).sum()
    norms = np.sqrt((rows**2).sum(1))
    total = {"counts": counts, "means": means, "within_ss": within}
    return total | {"norm_sum": np.array(norms.sum()), "norm_max": np.array(norms.max(initial=0))}


def problem(found: float, expected: float, tolerance: float, floor: float = 0.0) -> str:
    """Why a number is not the expected one; "" where it is.

    Args:
        found: from ncfast.
        expected: the true one.
        tolerance: relative.
        floor: an absolute difference that is rounding.
    """
    if np.isnan(expected) or np.isinf(expected):
        same = np.isnan(found) if np.isnan(expected) else found == expected
        # where rounding decides whether a divisor is zero the value is undefined or huge
        return (
            "" if same or not np.isfinite(found) or abs(found) > 1e10 else f"{found} not {expected}"
        )
    if abs(found - expected) <= max(tolerance * abs(expected), floor):
        return ""
    if abs(expected) > 1e10 and not abs(found) < 1e10:
        return ""
    return f"{found!r} not {float(expected)!r}"


def metrics(sample: Sample, weight: Tensor, bias: Tensor, outside: Tensor) -> Mapping[str, float]:
    """Every id of the catalogue by the oracles of the tests, in float64 loops."""
    use_tests()
    import warnings

    from oracle import ORACLES, case

    stats = case(sample.x, sample.y, sample.classes, weight, bias, outside)
    found = {}
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, oracle in ORACLES.items():
            try:
                found[name] = float(oracle(stats))
            except (ZeroDivisionError, ValueError, OverflowError):  # noqa: PERF203
                found[name] = np.nan  # an oracle in Python's numbers; 0 / 0 raises
    return found
