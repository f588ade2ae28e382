"""Checks a saved state before it is loaded: its entries, and the values of its sums."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_REMEDY = "The state is damaged, or `state_dict` did not write it: load another copy."


def check_entries(own: Mapping[str, Tensor], state: Mapping[str, Tensor], remedy: str) -> None:
    """Refuse a state whose entries do not have the names, dtypes and shapes of ``own``.

    Args:
        own: the state that is to be replaced.
        state: the saved one.
        remedy: where a state of other shapes can be loaded, a sentence.

    Raises:
        ValueError: an entry is missing or unknown, is no tensor, or has another dtype or shape.
    """
    if set(own) != set(state):
        names = sorted(map(str, state))
        raise ValueError(
            f"Expected argument `state` to have the keys {sorted(own)} but got {names}. {remedy}"
        )
    for name, tensor in own.items():
        found = state[name]
        if not isinstance(found, Tensor):
            raise ValueError(
                f"Expected entry {name!r} of `state` to be a tensor but got "
                f"{type(found).__name__}. {_REMEDY}"
            )
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise ValueError(
                f"Expected entry {name!r} of `state` to be {tensor.dtype} of shape "
                f"{tuple(tensor.shape)} but got {found.dtype} of shape {tuple(found.shape)}. "
                f"{remedy}"
            )


@torch.no_grad()
def check_sums(state: Mapping[str, Tensor], prefix: str = "") -> None:
    """Refuse values of class moments that no rows have; waits for the device that holds them.

    NaN and infinite sums pass where the norms are not finite: features that are not finite make
    both, and a state of them can be saved and loaded again.

    Args:
        state: holds ``counts`` (K,), ``means``, ``within_ss`` (K,), ``norm_sum`` and ``norm_max``
            (), float64. The counts may be integers.
        prefix: begins the names of the entries.

    Raises:
        ValueError: a negative value, a fractional count, squares of a class without rows, or a sum
            that is not finite beside norms that are.
    """
    counts, squares = state[f"{prefix}counts"], state[f"{prefix}within_ss"]
    for name in ("counts", "within_ss", "norm_sum", "norm_max"):
        check_not_negative(f"{prefix}{name}", state[f"{prefix}{name}"])
    if counts.is_floating_point() and bool((counts != counts.floor()).any()):
        _refuse(f"{prefix}counts", "whole numbers", counts[counts != counts.floor()][0])
    empty = squares[counts == 0]
    if bool((empty > 0).any()):
        _refuse(f"{prefix}within_ss", "0 for a class without rows", empty.max())
    if not bool(state[f"{prefix}norm_sum"].isfinite()):
        return
    for name in ("means", "within_ss"):
        check_finite(f"{prefix}{name}", state[f"{prefix}{name}"])


def check_not_negative(name: str, tensor: Tensor) -> None:
    """Raise ValueError if an entry holds a negative number; NaN passes."""
    least = tensor.min()
    if bool(least < 0):
        _refuse(name, "at least 0", least)


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise ValueError if an entry holds NaN or infinity. The check needs no memory."""
    total = tensor.sum()
    if not bool(total.isfinite()):
        _refuse(name, "finite", total)


def _refuse(name: str, expected: str, found: Tensor) -> None:
    raise ValueError(
        f"Expected entry {name!r} of `state` to be {expected} but got {found.item()}. {_REMEDY}"
    )
