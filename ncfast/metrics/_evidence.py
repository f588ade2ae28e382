"""`Evidence`: the inputs of a call, and the intermediate results that several metrics share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from ncfast.metrics import _pairs, _rules, _second_pass
from ncfast.metrics._axes import Axes, principal_axes
from ncfast.moments import ClassMoments

T = TypeVar("T")


@dataclass(eq=False)
class Evidence:
    """What a metric may look at; every property is computed once, when first asked for.

    Attributes:
        moments: class moments of the features.
        feats: (N, D) features, for metrics that read them again; labels: their (N,) classes.
        weight: (K, D) classifier rows w_c, float64; bias: (K,).
        ood: (M, D) features of inputs from outside the distribution, float64.
        wanted_pairs: pair quantities that one sweep over the pairs should gather together.
        wants_scatter: whether some metric of this call needs the D x D scatter anyway.
    """

    moments: ClassMoments
    feats: Tensor | None = None
    labels: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    ood: Tensor | None = None
    wanted_pairs: frozenset[str] = frozenset()
    wants_scatter: bool = False
    _results: dict[Any, Any] = field(default_factory=dict, repr=False)

    def has(self, need: str) -> bool:
        """Whether the input of that name was given."""
        return getattr(self, need) is not None

    def once(self, function: Callable[[Evidence], T]) -> T:
        """``function(self)``, computed at the first call only."""
        if function not in self._results:
            self._results[function] = function(self)
        result: T = self._results[function]
        return result

    @property
    def classifier(self) -> Tensor:
        """The classifier rows, float64 (K, D)."""
        assert self.weight is not None
        return self.weight

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """Features and labels."""
        assert self.feats is not None
        assert self.labels is not None
        return self.feats, self.labels

    @cached_property
    def number(self) -> Tensor:
        """P, the number of present classes, () float64."""
        return self.moments.present.sum().to(torch.float64)

    @cached_property
    def total(self) -> Tensor:
        """N, () float64: int / int would be float32."""
        return self.moments.total.to(torch.float64)

    @cached_property
    def shares(self) -> Tensor:
        """n_c / N, (K,) float64."""
        return self.moments.counts.to(torch.float64) / self.total

    @cached_property
    def poison(self) -> Tensor:
        """Zero, or NaN when the features or labels are unusable, or there are none."""
        return 0 * (self.moments.norm_sum + self.moments.within_ss.sum()) / self.total

    @cached_property
    def centred(self) -> Tensor:
        """mu_c - m, zero for absent classes, (K, D)."""
        return self.moments.centred_means

    @cached_property
    def norms(self) -> Tensor:
        """norm(mu_c - m), (K,)."""
        return torch.linalg.vector_norm(self.centred, dim=1)

    @cached_property
    def between_trace(self) -> Tensor:
        """Tr(Sigma_B), every class counting the same, ()."""
        return self.norms.square().sum() / self.number

    @cached_property
    def axes(self) -> Axes:
        """Singular values and right singular vectors of the centred means."""
        return principal_axes(self.centred)

    @cached_property
    def pair_statistics(self) -> dict[str, _pairs.Statistic]:
        """Statistics of the wanted pair quantities, from one sweep."""
        return _pairs.sweep(
            self.centred,
            self.norms,
            self.moments.class_variances,
            self.moments.present,
            sorted(self.wanted_pairs),
        )

    def pair(self, quantity: str) -> _pairs.Statistic:
        """Count, mean, variance and maximum over pairs of present classes."""
        if quantity not in self.wanted_pairs:
            alone = Evidence(self.moments, wanted_pairs=frozenset([quantity]))
            return alone.pair_statistics[quantity]
        return self.pair_statistics[quantity]

    @cached_property
    def scatter(self) -> Tensor:
        """Sigma_W, (D, D), population normalisation."""
        feats, labels = self.rows
        return _second_pass.scatter(feats, labels, self.moments.means) / self.total + self.poison

    @cached_property
    def axis_variances(self) -> Tensor:
        """v^T Sigma_W v for every direction v of `axes`, (R,)."""
        directions = self.axes.directions
        # K - 1 directions cost K / D of the full scatter: form that only if it is needed anyway
        if self.wants_scatter or 2 * directions.shape[0] > directions.shape[1]:
            return ((directions @ self.scatter) * directions).sum(1)
        feats, labels = self.rows
        squares = _second_pass.projected(feats, labels, self.moments.means, directions)
        return squares / self.total + self.poison

    @cached_property
    def decisions(self) -> tuple[Tensor, Tensor]:
        """Nearest class mean, and the classifier's choice (or -1 without one), (N,) each."""
        feats, _ = self.rows
        return _rules.decisions(feats, self.moments, self.weight, self.bias)
