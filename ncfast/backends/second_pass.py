"""What needs the features again once the class means are known: which engine takes what.

Each operation has a plain form in torch, for any device and for everything that traces. The C++
extension takes plain tensors on a CPU. Another engine joins by a line in `_ENGINES`: functions of
the same signatures, or the plain ones where it has none of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast.backends import _dispatch, cpu, cpu_second_pass, reference
from ncfast.backends.blocks import residuals
from ncfast.backends.decide import Rule, decisions
from ncfast.backends.margins import Margins, margins
from ncfast.backends.pairs import Sweep, sweep


class Engine(NamedTuple):
    """The operations of a second pass; labels are in range, means and rows float64."""

    # (feats, labels, means): sum of (x - mu)(x - mu)^T, (D, D)
    scatter: Callable[[Tensor, Tensor, Tensor], Tensor]
    # (feats, labels, means, vectors): sum of <x - mu, v>^2 for each v, (V,)
    projected_ss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    # (feats, rules): what each rule chooses for each row
    decisions: Callable[[Tensor, Sequence[Rule]], list[Tensor]]
    # (classes, rows, bias, feats, labels): see ncfast.backends.margins
    margins: Callable[..., Margins]
    # (centred, norms, variances, present, quantities): see ncfast.backends.pairs
    sweep: Callable[[Tensor, Tensor, Tensor, Tensor, Sequence[str]], Sweep]
    # (feats, labels, means): norm(x - mu) of each row, (N,); None where no decision can be saved
    own_distances: Callable[[Tensor, Tensor, Tensor], Tensor] | None


def scatter(feats: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """Sum of (x_i - mu_c)(x_i - mu_c)^T, (D, D), in plain torch."""
    dim = means.shape[1]
    total = means.new_zeros((dim, dim))
    # the upper triangle in panels: there is no symmetric product, and this saves 3/8 of the work
    width = max(64, -(-dim // 4))
    for residual, _ in residuals(feats, labels, means):
        for start in range(0, dim, width):
            rows, right = min(width, dim - start), residual.narrow(1, start, dim - start)
            panel = total.narrow(0, start, rows).narrow(1, start, dim - start)
            panel.addmm_(right.narrow(1, 0, rows).T, right)
    upper = total.triu(1)
    return upper + upper.T + torch.diag(total.diagonal())


_ENGINES = {
    "reference": Engine(scatter, reference.projected_ss, decisions, margins, sweep, None),
    "cpu": Engine(
        cpu_second_pass.scatter,
        cpu.projected_ss,
        decisions,
        cpu_second_pass.margins,
        cpu_second_pass.sweep,
        cpu_second_pass.own_distances,
    ),
}


def engine(name: str, feats: Tensor) -> Engine:
    """The operations of backend ``name`` ("auto", "cpu", ...) for tensors like ``feats``.

    What a backend has no second pass for, or cannot do here, the plain forms do.
    """
    usable = name != "reference" and _dispatch.readable(feats)
    return _ENGINES["cpu" if usable else "reference"]
