"""Types of the benchmarks: an operation, its cases, and the contestants that compute it.

An operation knows its inputs, its float64 truth and how far a result is from it. A contestant is
prepared once for each copy of the inputs and then called many times; only the calls are timed.
`ncfast.benchmarks.operations.OPERATIONS` holds them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

Kind = Literal["ncfast", "torch", "public", "library"]
Inputs = dict[str, Any]
Call = Callable[[], Any]

PROMISE = 1e-6  # relative error that ncfast promises against float64
RIGHT = 1e-3  # what everybody else may be off by and still count as right


@dataclass(frozen=True)
class Case:
    """One size of an operation.

    Attributes:
        sizes: what the inputs are made from and how the case is named: N, D, K, dtype and so on.
        bytes: what any algorithm moves at least: every input read once, every output written.
        flops: floating-point operations of the plain algorithm.
        promise: largest relative error allowed to ncfast.
        budget: largest relative error allowed to everybody else.
        quick: whether it belongs to ``--quick``, where nothing may take long to set up.
    """

    sizes: Mapping[str, int | float | str]
    bytes: int
    flops: int
    promise: float = PROMISE
    budget: float = RIGHT
    quick: bool = False

    @property
    def label(self) -> str:
        """One line that names the case."""
        return ", ".join(
            f"{name} = {value:,}" if isinstance(value, int) else f"{name} = {value}"
            for name, value in self.sizes.items()
        )


def anywhere(case: Case) -> str | None:
    """For contestants that can always run."""
    return None


@dataclass(frozen=True)
class Contestant:
    """One way to compute an operation.

    Attributes:
        name: unique within its operation.
        kind: "ncfast" itself; "torch", an honest reference; "public", the way of published code;
            "library", SciPy, scikit-learn or FAISS.
        prepare: inputs to a call without arguments that returns the operation's output; what it
            does once (a model, a contiguous copy the library asks for) is not timed.
        available: a case to None, or to the reason why it cannot run there.
        backend: of ncfast: "cpu", "reference" or "triton".
    """

    name: str
    kind: Kind
    prepare: Callable[[Inputs], Call]
    available: Callable[[Case], str | None] = anywhere
    backend: str = ""

    def allowed(self, case: Case) -> float:
        """Largest error of a right answer."""
        return case.promise if self.kind == "ncfast" else case.budget


@dataclass(frozen=True)
class Operation:
    """Something to compute, and everyone who does.

    Attributes:
        name: as ``--ops`` takes it.
        cases: whether it is a quick run, to the cases.
        make: case, seed and device to inputs; another seed gives another copy for cold caches.
        truth: inputs to the output in float64, by an algorithm that no contestant shares.
        error: an output and the truth to a relative error; NaN is wrong.
        contestants: the first one of kind "ncfast" that runs and is right is what the others are
            compared with.
        when_named: leave it out of a run that names no operation: it takes long, or needs data.
    """

    name: str
    cases: Callable[[bool], Sequence[Case]]
    make: Callable[[Case, int, torch.device], Inputs]
    truth: Callable[[Inputs], Any]
    error: Callable[[Any, Any], float]
    contestants: Sequence[Contestant]
    when_named: bool = False
