"""Types of the benchmarks: an operation, its cases, and the contestants that compute it.

An operation defines its inputs, its float64 truth and the error of a result. A contestant is
prepared once for each copy of the inputs and then called many times. Only the calls are timed.
`ncfast.benchmarks.operations.OPERATIONS` holds all operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

Kind = Literal["ncfast", "torch", "public", "library", "baseline"]
Inputs = dict[str, Any]
Call = Callable[[], Any]

PROMISE = 1e-6  # relative error that ncfast promises against float64
RIGHT = 1e-3  # largest relative error of other contestants that counts as right


@dataclass(frozen=True)
class Case:
    """One size of an operation.

    Attributes:
        sizes: sizes and options of the inputs, which also name the case: N, D, K, dtype and so on.
        bytes: least number of bytes to move: every input read once, every output written once.
        flops: number of floating-point operations of the plain algorithm.
        promise: largest relative error allowed for ncfast.
        budget: largest relative error allowed for other contestants.
        quick: whether it belongs to ``--quick``. Such cases must be quick to set up.
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
    """For contestants that can always run: no reason against it."""
    return None


@dataclass(frozen=True)
class Contestant:
    """One way to compute an operation.

    Attributes:
        name: unique within its operation.
        kind: "ncfast"; "torch", a good implementation in torch; "public", as in published code;
            "library", an installed package called through its public interface; "baseline", a
            measure of scale that does less than the operation asks, and is no rival.
        prepare: maps inputs to a call without arguments that returns the output of the operation.
            Its own work (a model, a contiguous copy for the library) is not timed.
        available: maps a case to None, or to the reason why the contestant cannot run.
        backend: backend of ncfast: "cpu", "reference" or "triton".
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
    """A computation and its contestants.

    Attributes:
        name: name for ``--ops``.
        cases: returns the cases of a quick run (True) or of a full run (False).
        make: makes inputs from case, seed and device. Other seeds give copies for cold caches.
        truth: computes the output in float64, by an algorithm that no contestant uses.
        error: computes the relative error of an output; NaN is wrong.
        contestants: all contestants. Ratios refer to the first of kind "ncfast" that runs and is
            right.
        when_named: whether it runs only if named, because it takes long or needs data.
        values: the numbers of an output (or of the truth) that the file keeps beside the times;
            None keeps none.
    """

    name: str
    cases: Callable[[bool], Sequence[Case]]
    make: Callable[[Case, int, torch.device], Inputs]
    truth: Callable[[Inputs], Any]
    error: Callable[[Any, Any], float]
    contestants: Sequence[Contestant]
    when_named: bool = False
    values: Callable[[Any], Mapping[str, float]] | None = None
