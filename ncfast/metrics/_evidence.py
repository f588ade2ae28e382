"""`Evidence`: the inputs of a call, and the intermediate results that several metrics share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from ncfast.backends.direct import plain
from ncfast.backends.margins import Classes, Margins
from ncfast.backends.pairs import Statistic, Sweep
from ncfast.backends.second_pass import Engine, engine
from ncfast.metrics._axes import Axes, nonzero_singular, principal_axes
from ncfast.moments import ClassMoments, class_moments

T = TypeVar("T")


@dataclass(eq=False)
class Evidence:
    """What a metric may look at; every property is computed once, when first asked for.

    Attributes:
        moments: class moments of the features.
        feats: (N, D) features, for metrics that read them again; labels: their (N,) classes.
        weight: (K, D) classifier rows w_c, float64; bias: (K,).
        ood: (M, D) features of inputs from outside the distribution.
        wanted_pairs: pair quantities that one sweep over the pairs should gather together.
        wants_scatter: whether some metric of this call needs the D x D scatter anyway.
        wants_margins: the same for the margins of the classifier at the class means.
        wants_spread: the same for the variances along its differences, which need the features.
        backend: the engine of the second passes, see `class_moments`.
    """

    moments: ClassMoments
    feats: Tensor | None = None
    labels: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    ood: Tensor | None = None
    wanted_pairs: frozenset[str] = frozenset()
    wants_scatter: bool = False
    wants_margins: bool = False
    wants_spread: bool = False
    backend: str = "auto"
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
    def outside(self) -> Tensor:
        """Mean of the features from outside the distribution, (D,) float64."""
        assert self.ood is not None
        if not plain(self.ood):
            return self.ood.mean(0, dtype=torch.float64)
        # torch casts element by element: four times the time of one class
        one = self.ood.new_zeros(len(self.ood), dtype=torch.uint8)
        return class_moments(self.ood, one, num_classes=1, backend=self.backend).means[0]

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
    def product_of_means(self) -> Tensor:
        """Sum of (mu_c - m)(mu_c - m)^T, (D, D)."""
        return self.centred.T @ self.centred

    @cached_property
    def rows_present(self) -> Tensor:
        """The classifier's rows of present classes, zero elsewhere, (K, D)."""
        return torch.where(self.moments.present.unsqueeze(1), self.classifier, 0.0)

    @cached_property
    def product_of_rows(self) -> Tensor:
        """Sum of w_c w_c^T over present classes, (D, D)."""
        return self.rows_present.T @ self.rows_present

    @cached_property
    def axes(self) -> Axes:
        """Singular values and right singular vectors of the centred means."""
        axes = principal_axes(self.centred)
        size = max(self.centred.shape)
        values = nonzero_singular(axes.values, size, self.moments.norm_mean)
        return axes._replace(values=values)

    @cached_property
    def _sweep(self) -> Sweep:
        """Statistics of the wanted pair quantities and the smallest distances, from one sweep."""
        return engine(self.backend, self.centred).sweep(
            self.centred,
            self.norms,
            self.moments.class_variances,
            self.moments.present,
            sorted(self.wanted_pairs),
        )

    def pair(self, quantity: str) -> Statistic:
        """Count, mean, variance and maximum over pairs of present classes."""
        if quantity not in self.wanted_pairs:
            alone = Evidence(self.moments, wanted_pairs=frozenset([quantity]), backend=self.backend)
            return alone._sweep.statistics[quantity]
        return self._sweep.statistics[quantity]

    @property
    def nearest_gaps(self) -> Tensor:
        """Distance of each mean from the nearest other one, (K,); infinite without another."""
        return self._sweep.nearest

    @cached_property
    def engine(self) -> Engine:
        """What runs the second passes."""
        feats, _ = self.rows
        return engine(self.backend, feats)

    def margins(self, *, spread: bool = False) -> Margins:
        """What follows from the margins; "projected" only with ``spread``, which needs features."""
        if spread or self.wants_spread:
            return self._margins_with_spread
        return self._margins_alone

    @cached_property
    def _margins_with_spread(self) -> Margins:
        return self._margins(*self.rows)

    @cached_property
    def _margins_alone(self) -> Margins:
        return self._margins(None, None)

    def _margins(self, feats: Tensor | None, labels: Tensor | None) -> Margins:
        rows = self.classifier - self.classifier.mean(0)  # differences do not see the mean
        classes = Classes(self.moments.means, self.moments.class_variances, self.moments.counts)
        run = engine(self.backend, self.moments.means if feats is None else feats).margins
        if labels is not None:
            labels = labels.to(torch.int64).clamp(0, len(rows) - 1)  # out of range: means are NaN
        return run(classes, rows, self.bias, feats, labels)

    @cached_property
    def scatter(self) -> Tensor:
        """Sigma_W, (D, D), population normalisation."""
        feats, labels = self.rows
        labels = labels.to(torch.int64).clamp(0, self.moments.num_classes - 1)
        sums = self.engine.scatter(feats, labels, self.moments.means)
        return sums * (1 / self.total + self.poison)  # one pass over D x D

    @cached_property
    def axis_variances(self) -> Tensor:
        """v^T Sigma_W v for every direction v of `axes`, (R,)."""
        directions = self.axes.directions
        # K - 1 directions cost K / D of the full scatter: form that only if it is needed anyway
        if self.wants_scatter or 2 * directions.shape[0] > directions.shape[1]:
            return ((directions @ self.scatter) * directions).sum(1)
        feats, labels = self.rows
        squares = self.engine.projected_ss(feats, labels, self.moments.means, directions)
        return squares / self.total + self.poison
