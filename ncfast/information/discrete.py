"""Entropy and mutual information of discrete variables by their frequencies."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ncfast._arrays import Array
from ncfast.information.estimate import Estimate, announce
from ncfast.information.samples import as_classes, check_choice, check_same

Correction = Literal["miller-madow"] | None


def plugin_entropy(classes: Tensor) -> float:
    """Entropy in nats of the frequencies of (N,) class numbers."""
    counts = torch.bincount(classes)
    share = counts[counts > 0].to(torch.float64) / len(classes)
    return float(torch.special.entr(share).sum())


@torch.no_grad()
def discrete_mutual_information(x: Array, y: Array, *, correction: Correction = None) -> Estimate:
    """Mutual information I(X;Y) in nats of two discrete variables, from their joint frequencies.

    The plug-in value is biased by about (K_x - 1)(K_y - 1) / 2N upwards.

    Args:
        x: (N,) integers.
        y: (N,) integers; row i of both is the same sample.
        correction: "miller-madow" subtracts the bias as far as the occupied cells tell it,
            (K_xy - K_x - K_y + 1) / 2N; the value can then be negative.

    Returns:
        `Estimate` with the standard error of the delta method, the standard deviation of
        ln p(x,y) / p(x) p(y) over sqrt(N). It warns when one of them is constant, and when there
        are fewer than five samples an occupied cell.

    Raises:
        TypeError, ValueError: not integers, other shapes, lengths that differ, an unknown option.

    Example:
        >>> import torch, ncfast
        >>> x = torch.arange(100) % 2
        >>> round(ncfast.discrete_mutual_information(x, x + 5).value, 4)  # ln 2
        0.6931
    """
    check_choice("correction", correction, ("miller-madow", None))
    first, second = as_classes("x", x), as_classes("y", y)
    check_same(x=first, y=second)
    count = len(first)
    _, cell = torch.unique(first * (int(second.max()) + 1) + second, return_inverse=True)
    rows, columns, cells = (torch.bincount(of).to(torch.float64) for of in (first, second, cell))
    terms = (cells[cell] * count / (rows[first] * columns[second])).log()
    value = float(terms.mean())
    if correction:
        value -= (len(cells) - len(rows) - len(columns) + 1) / (2 * count)
    doubts = []
    if min(len(rows), len(columns)) == 1:
        doubts.append("A variable is constant and shares no information.")
    if count < 5 * len(cells) and len(cells) > 1:
        doubts.append(
            f"{count} samples in {len(cells)} occupied cells are few: the bias of the plug-in is "
            f"about {(len(cells) - len(rows) - len(columns) + 1) / (2 * count):.2f} nats."
        )
    error = float(terms.std(correction=0)) / math.sqrt(count)
    method = "plugin" if correction is None else correction
    sizes = (len(rows), len(columns))
    return announce(Estimate(value, error, count, None, method, sizes, warnings=tuple(doubts)))
