"""`Metric`: a definition, what it needs and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ncfast.metrics._evidence import Evidence
from ncfast.moments import ClassMoments

Tier = Literal["lite", "standard", "full"]
TIERS: tuple[Tier, ...] = ("lite", "standard", "full")


@dataclass(frozen=True)
class Metric:
    """One entry of the catalogue; call it on `ClassMoments`, or on an `Evidence`.

    Attributes:
        function: the pure function behind it.
        formula: its definition, in the notation of docs/metrics.md.
        source: where it comes from.
        range: the values it takes.
        direction: what a value says.
        tier: "lite" costs O(K D) beyond the moments, "standard" O(K D min(K, D)), "full" more: a
            second pass over the features, all pairs of classes, or a decomposition.
        needs: inputs beyond the moments: "weight", "bias", "feats", "ood".
        pair: the quantity of a pair of classes that it averages, if any.
        uses: shared results it needs: "scatter" (the D x D within-class scatter matrix), "margins"
            (of the classifier at the class means), "spread" (the variances along its differences).
        stalls: whether a CUDA library routine behind it waits for the device.
        variants: related ids, filled in by the catalogue.
    """

    function: Callable[[Evidence], Tensor]
    formula: str
    source: str
    range: str
    direction: str
    tier: Tier = "lite"
    needs: tuple[str, ...] = ()
    pair: str | None = None
    uses: frozenset[str] = frozenset()
    stalls: bool = False
    variants: tuple[str, ...] = ()

    def __call__(self, source: ClassMoments | Evidence) -> Tensor:
        """The value as a () float64 tensor."""
        evidence = Evidence(source) if isinstance(source, ClassMoments) else source
        return self.function(evidence)

    def usable(self, evidence: Evidence) -> bool:
        """Whether every input it needs is there."""
        return all(evidence.has(need) for need in self.needs)


def of_moments(function: Callable[[ClassMoments], Tensor]) -> Callable[[Evidence], Tensor]:
    """Lift a function of the moments alone to one of an `Evidence`."""
    return lambda evidence: function(evidence.moments)
