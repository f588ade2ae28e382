"""What needs the features again once the class means are known: which engine takes what.

Each operation has a plain form in torch, for any device and for everything that traces. The C++
extension takes plain tensors on a CPU, Triton's kernels those on a CUDA device, if asked for.
Another engine joins by a line in `_ENGINES`: functions of the same signatures, or the plain ones
where it has none of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from ncfast.ops import _dispatch, cpu, cpu_second_pass, reference, triton
from ncfast.ops.decide import Rule, decisions
from ncfast.ops.margins import Margins, margins
from ncfast.ops.pairs import Sweep, sweep


class Engine(NamedTuple):
    """The operations of a second pass; labels are in range, means and rows float64."""

    # (feats, labels, means): sum of (x - mu)(x - mu)^T, (D, D)
    scatter: Callable[[Tensor, Tensor, Tensor], Tensor]
    # (feats, labels, means, vectors): sum of <x - mu, v>^2 for each v, (V,)
    projected_ss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    # (feats, rules): what each rule chooses for each row
    decisions: Callable[[Tensor, Sequence[Rule]], list[Tensor]]
    # (classes, rows, bias, feats, labels): see ncfast.ops.margins
    margins: Callable[..., Margins]
    # (centred, norms, variances, present, quantities): see ncfast.ops.pairs
    sweep: Callable[[Tensor, Tensor, Tensor, Tensor, Sequence[str]], Sweep]
    # (feats, labels, means): norm(x - mu) of each row, (N,); None where no decision can be saved
    own_distances: Callable[[Tensor, Tensor, Tensor], Tensor] | None


_ENGINES = {
    "reference": Engine(reference.scatter, reference.projected_ss, decisions, margins, sweep, None),
    "cpu": Engine(
        cpu_second_pass.scatter,
        cpu.projected_ss,
        decisions,
        cpu_second_pass.margins,
        cpu_second_pass.sweep,
        cpu_second_pass.own_distances,
    ),
    "triton": Engine(triton.scatter, triton.projected_ss, triton.decide, margins, sweep, None),
}


def engine(name: str, feats: Tensor) -> Engine:
    """The operations of backend ``name`` ("auto", "cpu", ...) for tensors like ``feats``.

    What a backend has no second pass for, or cannot do here, the plain forms do.
    """
    if name == "triton" and triton.why_not(feats) is None:
        return _ENGINES[name]
    usable = name != "reference" and _dispatch.readable(feats)
    return _ENGINES["cpu" if usable else "reference"]
