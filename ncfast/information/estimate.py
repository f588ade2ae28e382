"""The result of every estimator: a value, its standard error and its warnings."""

from __future__ import annotations

import math
import warnings as python_warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ncfast._html import paragraphs, table


class EstimateWarning(UserWarning):
    """Warns that an estimate may be wrong, with the reasons."""


@dataclass(frozen=True)
class Estimate:
    """An estimate, in nats unless `unit` says bits.

    The numbers are Python floats. Every estimator synchronises with its device, so call estimators
    at log points and not in every step.

    Attributes:
        value: the estimate.
        stderr: one standard error. NaN if it was switched off or is not available; `warnings` says
            so in the second case.
        n: number of samples used.
        k: number of neighbours; None for estimators without neighbours.
        method: the estimator. Method "auto" reports "ksg" (all rows by neighbours), "counts" (all
            rows by the multiplicities of equal rows) or "ksg+counts" (some rows by each).
        dims: number of columns of each block.
        backend: the engine that found the neighbours. All engines are exact.
        warnings: reasons to doubt the estimate; also raised once as `EstimateWarning`.
        details: further numbers of the estimator by name. Information is in nats.
        unit: "nats" or "bits", for `value` and `stderr`.

    Example:
        >>> from ncfast.information import Estimate
        >>> found = Estimate(0.83, 0.01, n=2000, k=5, method="ksg")
        >>> float(found), str(found)
        (0.83, '0.8300 +- 0.0100 nats')
        >>> str(found.in_bits())
        '1.1974 +- 0.0144 bits'
    """

    value: float
    stderr: float
    n: int
    k: int | None
    method: str
    dims: tuple[int, ...] = ()
    backend: str = ""
    warnings: tuple[str, ...] = ()
    details: Mapping[str, float] = field(default_factory=dict)
    unit: Literal["nats", "bits"] = "nats"

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.4f} +- {self.stderr:.4f} {self.unit}"

    def _repr_html_(self) -> str:
        """The table of a notebook."""
        neighbours = [] if self.k is None else [["neighbours", str(self.k)]]
        columns = [["columns", ", ".join(map(str, self.dims))]] if self.dims else []
        rows = [
            ["value", f"{self.value:.4f} {self.unit}"],
            ["standard error", f"{self.stderr:.4f} {self.unit}"],
            ["method", self.method],
            ["samples", f"{self.n:,}"],
            *neighbours,
            *columns,
        ]
        return table([], rows) + paragraphs(f"Warning: {text}" for text in self.warnings)

    def in_bits(self) -> Estimate:
        """The same estimate with `value` and `stderr` in bits; `details` and `warnings` stay."""
        if self.unit == "bits":
            return self
        bit = math.log(2)
        return replace(self, value=self.value / bit, stderr=self.stderr / bit, unit="bits")


def announce(estimate: Estimate) -> Estimate:
    """Raise the warnings of an estimate as one Python warning, at the estimator's caller."""
    if estimate.warnings:
        text = f"{estimate.method}: " + " ".join(estimate.warnings)
        python_warnings.warn(text, EstimateWarning, stacklevel=4)  # `torch.no_grad` adds a frame
    return estimate
