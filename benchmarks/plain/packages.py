"""Calls of installed packages through their public interface, as their documentation shows them.

Each call of information takes x and y, or x, y and a condition, and returns nats. It raises
NotImplementedError where the package has no such estimator. Defaults stay, except k and base e.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np

Blocks = Any  # arrays of shape (N,) or (N, columns)


def columns(block: Any) -> np.ndarray:
    """The block as (N, columns) float64."""
    found = np.asarray(block, dtype=float)
    return found.reshape(len(found), -1)


def _single(*blocks: Any) -> None:
    if any(columns(block).shape[1] > 1 for block in blocks):
        raise NotImplementedError("one column a side")


def scikit_learn(*blocks: Blocks, k: int) -> float:
    """mutual_info_regression: one column against one, no condition."""
    from sklearn.feature_selection import mutual_info_regression

    if len(blocks) == 3:
        raise NotImplementedError("no condition")
    _single(*blocks)
    x, y = columns(blocks[0]), columns(blocks[1]).ravel()
    return float(mutual_info_regression(x, y, n_neighbors=k, random_state=0)[0])


def ennemi(*blocks: Blocks, k: int) -> float:
    """estimate_mi: several columns are separate variables there, so one against one."""
    _single(*blocks[:2])
    given = {"cond": columns(blocks[2])} if len(blocks) == 3 else {}
    x, y = (columns(block)[:, 0] for block in blocks[:2])
    return float(import_module("ennemi").estimate_mi(y, x, k=k, **given).item())


def npeet_plus(*blocks: Blocks, k: int) -> float:
    """Mi and cmi, in any number of columns."""
    package = import_module("npeet_plus")
    parts = [columns(block) for block in blocks]
    return float((package.mi if len(parts) == 2 else package.cmi)(*parts, k=k, base=math.e))


def infomeasure(*blocks: Blocks, k: int) -> float:
    """mutual_information(approach="metric"), in any number of columns."""
    package = import_module("infomeasure")
    parts = [columns(block) for block in blocks[:2]]
    given = {"cond": columns(blocks[2])} if len(blocks) == 3 else {}
    call = package.conditional_mutual_information if given else package.mutual_information
    return float(call(*parts, approach="metric", k=k, **given))


def scikit_learn_discrete(x: np.ndarray, y: np.ndarray) -> float:
    """mutual_info_score of (N,) integers."""
    from sklearn.metrics import mutual_info_score

    return float(mutual_info_score(x, y))


def ennemi_discrete(x: np.ndarray, y: np.ndarray) -> float:
    """estimate_mi, told that both of (N,) integers are discrete."""
    package = import_module("ennemi")
    return float(package.estimate_mi(y, x, discrete_x=True, discrete_y=True).item())


def npeet_plus_discrete(x: np.ndarray, y: np.ndarray) -> float:
    """Midd of (N,) integers."""
    return float(import_module("npeet_plus").midd(x, y, base=math.e))


def infomeasure_discrete(x: np.ndarray, y: np.ndarray) -> float:
    """mutual_information(approach="discrete") of (N,) integers."""
    return float(import_module("infomeasure").mutual_information(x, y, approach="discrete"))
