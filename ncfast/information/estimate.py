"""What every estimator returns: a value, its standard error, and what speaks against it."""

from __future__ import annotations

import math
import warnings as python_warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal


class EstimateWarning(UserWarning):
    """An estimate that should not be believed as it stands, and why."""


@dataclass(frozen=True)
class Estimate:
    """An estimate, in nats unless `unit` says bits.

    Plain Python numbers: reading an estimate off an accelerator synchronises, so estimators belong
    at log points and not into every step.

    Attributes:
        value: the estimate.
        stderr: one standard error; NaN when it was switched off, or could not be had, which
            `warnings` says.
        n: samples it rests on.
        k: neighbours, None for estimators without.
        method: the estimator. Method "auto" reports "ksg" (neighbours alone), "counts" (the
            multiplicities of equal rows alone) or "ksg+counts" (both, each for some rows).
        dims: columns of each block it has seen.
        backend: the engine that found the neighbours; all of them are exact.
        warnings: reasons for doubt, in words; also raised once as `EstimateWarning`.
        details: further numbers of the estimator by name; amounts of information are in nats.
        unit: "nats" or "bits", of `value` and `stderr`.

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

    def in_bits(self) -> Estimate:
        """The same estimate with `value` and `stderr` in bits; `details` and `warnings` stay."""
        if self.unit == "bits":
            return self
        bit = math.log(2)
        return replace(self, value=self.value / bit, stderr=self.stderr / bit, unit="bits")


def announce(estimate: Estimate) -> Estimate:
    """Raise the estimate's doubts as one Python warning at the caller of the public function."""
    if estimate.warnings:
        text = f"{estimate.method}: " + " ".join(estimate.warnings)
        python_warnings.warn(text, EstimateWarning, stacklevel=4)  # no_grad is a frame
    return estimate
