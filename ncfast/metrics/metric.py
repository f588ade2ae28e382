"""`Metric`: a definition, what it needs and what it costs; `evaluate` computes several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ncfast.metrics.inputs import MetricInputs
from ncfast.moments import ClassMoments

Tier = Literal["lite", "standard", "full"]
TIERS: tuple[Tier, ...] = ("lite", "standard", "full")


@dataclass(frozen=True)
class Metric:
    """One entry of the catalogue; call it on `ClassMoments` or `MetricInputs`.

    Attributes:
        function: the pure function behind it.
        formula: its definition, in the notation of docs/metrics.md.
        source: where it comes from.
        range: the values it takes.
        direction: what a value says.
        tier: "lite" costs O(K D) beyond the moments, "standard" O(K D min(K, D)), "full" more: a
            second pass over the features, all pairs of classes, or a decomposition.
        needs: the inputs it reads: "moments", "classifier", "bias", "scatter" (Sigma_W, whole or in
            some directions), "revisit" (the features again, once the moments are known), "ood".
        uses: shared results that a call plans for: "scatter" (all of the D x D matrix), "margins"
            (of the classifier at the class means), "spread" (the variances along its differences),
            "decisions" (of the classifier and the nearest mean), "scores" (NECO's of every row),
            "pairs.cdnv" and the like (a quantity averaged over pairs of classes), "products" (of
            the means with each other), "row_products" (of the classifier's rows), "spectrum" and
            "centred_spectrum" (singular values of the means). A metric that leaves one out is
            right all the same and slower.
        stalls: whether a CUDA library routine behind it waits for the device.
        variants: related ids, filled in by the catalogue.
    """

    function: Callable[[MetricInputs], Tensor]
    formula: str
    source: str
    range: str
    direction: str
    tier: Tier = "lite"
    needs: frozenset[str] = frozenset({"moments"})
    uses: frozenset[str] = frozenset()
    stalls: bool = False
    variants: tuple[str, ...] = ()

    def __call__(self, source: ClassMoments | MetricInputs) -> Tensor:
        """The value, float64, with the leading axes of the moments: () for one state."""
        inputs = MetricInputs(source) if isinstance(source, ClassMoments) else source
        return self.function(inputs)

    def usable(self, inputs: MetricInputs) -> bool:
        """Whether every input it needs is there."""
        return self.needs <= inputs.given

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of a call that hold what it needs beyond the moments."""
        names = {_ARGUMENTS[need]: None for need in _ARGUMENTS if need in self.needs}
        return tuple(names)


_ARGUMENTS = {
    "classifier": "weight",
    "bias": "bias",
    "ood": "ood",
    "scatter": "feats",
    "revisit": "feats",
}


def evaluate(metrics: Mapping[str, Metric], inputs: MetricInputs) -> dict[str, Tensor]:
    """The value of every metric, with the work they have in common done once."""
    inputs.planned = frozenset[str]().union(*(metric.uses for metric in metrics.values()))
    return {name: metric.function(inputs) for name, metric in metrics.items()}
