"""`MetricInputs`: the inputs of a call, and the results that several metrics share.

A metric of the class moments alone is arithmetic on the properties of the first part. They have the
leading axes of the moments: one state or many, on any device. Properties that read the features or
the principal axes of the means are for one state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ncfast._kept import kept_property
from ncfast.moments import ClassMoments, class_moments
from ncfast.ops import _raw, summary
from ncfast.ops._raw import plain
from ncfast.ops.few_classes import FewClasses, OfClassifier, few_classes
from ncfast.ops.margins import Classes, Margins, cantelli_sums, margins
from ncfast.ops.pairs import PairStatistics, Statistic, pair_statistics
from ncfast.ops.projection import PROJECTION
from ncfast.ops.scalars import as_tensor
from ncfast.ops.scatter import SCATTER
from ncfast.ops.spectra import (
    Axes,
    AxisSums,
    condition,
    entropy_rank,
    negligible,
    nonzero_singular,
    principal_axes,
    stable_rank,
)
from ncfast.ops.summary import Gram, Ranks, RowProducts, Rows, Spread, Traces

T = TypeVar("T")


class RowSums(NamedTuple):
    """What a stream keeps in place of its features, see `ncfast.Accumulator`; None: not kept."""

    scatter: Tensor | None = None  # (D, D) N Sigma_W
    outside: Tensor | None = None  # (D,) mean of the features from outside the distribution
    agreements: Tensor | None = None  # (K,) rows on which classifier and nearest mean agree
    hits: Tensor | None = None  # (K,) rows whose nearest mean is that of their class
    squares: Tensor | None = None  # (K, K) sum over class c of <g - mu_c, w_c - w_k>^2
    scores: tuple[Tensor, Tensor] | None = None  # NECO scores (N,) of the rows, (M,) from outside


def given(value: T | None, argument: str) -> T:
    """An input that a metric reads.

    Raises:
        ValueError: it is missing.
    """
    if value is None:
        raise ValueError(f"Expected argument `{argument}`, which the metric reads, but got None.")
    return value


@dataclass(eq=False)
class MetricInputs:
    """The inputs of metrics. Every property is computed at its first use and kept.

    Attributes:
        moments: class moments of the features; leading axes are many states.
        feats: (N, D) features, for metrics that read them again; labels: their (N,) classes.
        weight: (..., K, D) classifier rows w_c of any floating dtype; bias: (..., K) float64.
        ood: (M, D) features of inputs from outside the distribution.
        sums: sums over the rows of a stream, in place of ``feats`` and ``ood``.
        planned: the union of `Metric.uses` over the metrics of the call.
        backend: see `class_moments`.
    """

    moments: ClassMoments
    feats: Tensor | None = None
    labels: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    ood: Tensor | None = None
    sums: RowSums | None = None
    planned: frozenset[str] = frozenset()
    backend: str = "auto"
    _results: dict[Any, Any] = field(default_factory=dict, repr=False)

    @kept_property
    def given(self) -> frozenset[str]:
        """The needs of metrics (see `Metric`) that these inputs meet."""
        needs = ["moments"]
        if self.weight is not None:
            needs.append("classifier")
        if self.bias is not None:
            needs.append("bias")
        if self.feats is not None:
            needs += ("scatter", "revisit")
        if self.ood is not None:
            needs.append("ood")
        return frozenset(needs)

    def once(self, function: Callable[[MetricInputs], T]) -> T:
        """``function(self)``, computed at the first call only."""
        if function not in self._results:
            self._results[function] = function(self)
        result: T = self._results[function]
        return result

    # Of the moments and the classifier: one state or many.

    @kept_property
    def _few(self) -> FewClasses | None:
        return few_classes(self.moments, self.planned, self.backend)

    @kept_property
    def traces(self) -> Traces:
        """Sums over the classes: N, P, Tr(Sigma_W), the mean norm; NaN where undefined."""
        return summary.traces(self.moments) if self._few is None else self._few.group("traces")

    # Tensors, because metrics broadcast them over classes and axes.

    @kept_property
    def number(self) -> Tensor:
        """P, the number of present classes, (...) float64."""
        return as_tensor(self.traces.number)

    @kept_property
    def total(self) -> Tensor:
        """N, (...) float64: int / int would be float32."""
        return as_tensor(self.traces.total)

    @kept_property
    def nan_if_invalid(self) -> Tensor:
        """Zero, or NaN when the features or labels are unusable, or there are none."""
        return as_tensor(self.traces.nan_if_invalid)

    @kept_property
    def shares(self) -> Tensor:
        """n_c / N, (..., K) float64."""
        return self.moments.counts.to(torch.float64) / self.total.unsqueeze(-1)

    @kept_property
    def present(self) -> Tensor:
        """Which classes have a sample, (..., K) bool."""
        return self.moments.present

    @property
    def centred(self) -> Tensor:
        """mu_c - m, zero for absent classes and where only rounding is left, (..., K, D)."""
        return self._centred[0]

    @property
    def norms(self) -> Tensor:
        """norm(mu_c - m), (..., K)."""
        return self._centred[1]

    @kept_property
    def _centred(self) -> tuple[Tensor, Tensor]:
        moments = self.moments
        smallest = negligible(max(moments.means.shape[-2:]), moments.norm_mean)
        return summary.centred(moments.means, moments.mean_of_means, self.present, smallest)

    @kept_property
    def between_trace(self) -> Tensor:
        """Tr(Sigma_B), every class counting the same, (...)."""
        if self._few is not None:
            return self._few.group("between", "products").trace
        return self.norms.square().sum(-1) / self.number

    @kept_property
    def between_trace_sample(self) -> Tensor:
        """Tr(Sigma_B), every sample counting the same, (...)."""
        if self._few is not None:
            return self._few.group("between", "products").trace_sample
        return summary.between_trace_sample(self.centred, self.moments.counts)

    @kept_property
    def mean_norm(self) -> Spread:
        """Mean and variance over classes of norm(mu_c - m)."""
        if self._few is not None:
            return self._few.group("norm", "products")
        return summary.spread(self.norms, self.present)

    @kept_property
    def gram(self) -> Gram:
        """Trace, norm and simplex distance of the Gram matrix of the centred means."""
        if self._few is not None:
            return self._few.group("gram", "products")
        shared = lambda: (self.product_of_means, self.product_of_means)  # noqa: E731
        return summary.gram(self.centred, self.centred, self.present, shared)

    @kept_property
    def gram_raw(self) -> Gram:
        """Trace, norm and simplex distance of the Gram matrix of the means."""
        if self._few is not None:
            return self._few.group("gram_raw", "products")
        return summary.gram(self.moments.means, self.moments.means, self.present)

    @kept_property
    def cosine_mean(self) -> Tensor:
        """Mean over pairs of cos(mu_c - m, mu_k - m), (...)."""
        if self._few is not None:
            return self._few.group("cosine", "products").mean
        return summary.mean_cosine(self.centred, self.norms, self.present)

    @kept_property
    def cosine_variance(self) -> Tensor:
        """Population variance over pairs of cos(mu_c - m, mu_k - m), (...)."""
        if self._few is not None:
            return self._few.group("cosine", "products").variance
        return summary.cosine_variance(self.centred, self.norms, self.present)

    def pair(self, quantity: str) -> Statistic:
        """Mean, variance and maximum of a quantity of `pairs.QUANTITIES` over pairs of classes."""
        if self._few is not None:
            return self._few.group(quantity, "pairs")
        if f"pairs.{quantity}" not in self.planned:
            planned = frozenset({f"pairs.{quantity}"})
            return MetricInputs(self.moments, planned=planned, backend=self.backend).pair(quantity)
        return self._pair_statistics.statistics[quantity]

    @kept_property
    def _pair_statistics(self) -> PairStatistics:
        """Statistics of the planned pair quantities, and the smallest distances."""
        return pair_statistics(
            self.backend,
            self.centred,
            self.norms,
            self.moments.class_variances,
            self.present,
            sorted(use.removeprefix("pairs.") for use in self.planned if use.startswith("pairs.")),
        )

    @property
    def nearest_gaps(self) -> Tensor:
        """Distance of each mean from the nearest other one, (..., K); infinite without another."""
        return self._pair_statistics.nearest

    @kept_property
    def condition(self) -> Tensor:
        """Condition number of the present means, (...)."""
        if self._few is not None and self._few.spectral:
            return self._few.group("condition", "spectrum").raw
        return condition(self.moments.means, self.present, self.moments.norm_mean)

    @kept_property
    def condition_centred(self) -> Tensor:
        """Largest over (P - 1)-th singular value of the centred means, (...)."""
        if self._few is not None and self._few.spectral:
            return self._few.group("condition", "centred_spectrum").centred
        return condition(self.centred, self.present, self.moments.norm_mean, centred=True)

    @kept_property
    def ranks_of_means(self) -> Ranks:
        """Effective and stable rank of the centred means."""
        if self._few is not None and self._few.spectral:
            return self._few.group("rank", "centred_spectrum")
        values = self.axes.values
        return Ranks(entropy_rank(values), stable_rank(values))

    @kept_property
    def classifier(self) -> Tensor:
        """The classifier's rows, float64 (..., K, D)."""
        return given(self.weight, "weight").to(torch.float64)

    @kept_property
    def rows_present(self) -> Tensor:
        """The classifier's rows of present classes, zero elsewhere, (..., K, D)."""
        return torch.where(self.present.unsqueeze(-1), self.classifier, 0.0)

    @kept_property
    def _few_rows(self) -> OfClassifier | None:
        if self._few is None:
            return None
        parts = [self.classifier] if self.bias is None else [self.classifier, self.bias]
        if not plain(*parts):
            return None
        products = "row_products" in self.planned
        return self._few.classifier(self.classifier, self.bias, products=products)

    @kept_property
    def logits_norm(self) -> Tensor:
        """norm(W mu_G + b) over present classes, (...): logits at the mean of all samples."""
        bias = given(self.bias, "bias")
        if self._few_rows is not None:
            return self._few_rows.logits.norm
        centre = self.moments.global_mean.unsqueeze(-1)
        logits = (self.classifier @ centre).squeeze(-1) + bias
        kept = torch.where(self.present, logits, 0.0)
        return summary.norm_of(kept) + self.nan_if_invalid

    @kept_property
    def rows(self) -> Rows:
        """Sizes and angles of the classifier's rows and the centred means, of present classes."""
        if self._few_rows is not None:
            return self._few_rows.rows
        return summary.rows(
            given(self.weight, "weight"), self.centred, self.present, self._undefined
        )

    @kept_property
    def _undefined(self) -> Tensor:
        return self.nan_if_invalid + 0 * self.traces.bessel

    @kept_property
    def row_products(self) -> RowProducts:
        """Gram matrices of the classifier's rows of present classes."""
        products = None if self._few_rows is None else self._few_rows.products
        if products is None and self._few is not None and self._few_rows is not None:
            products = self._few.classifier(self.classifier, None, products=True).products
        if products is not None:
            return products
        return summary.row_products(
            self.rows_present,
            self.centred,
            self.present,
            self._undefined,
            lambda: self.product_of_means,
        )

    def margins(self, *, spread: bool = False) -> Margins:
        """Results of the margins; ``spread`` adds "projected", which needs the features."""
        if self.feats is not None and (spread or "spread" in self.planned):
            return self._margins_with_spread
        return self._margins_alone

    @kept_property
    def _margins_with_spread(self) -> Margins:
        return self._margins(*self.samples)

    @kept_property
    def _margins_alone(self) -> Margins:
        return self._margins(None, None)

    def _margins(self, feats: Tensor | None, labels: Tensor | None) -> Margins:
        if self.moments.means.ndim > 2:
            return self._margins_of_each()
        rows = self.classifier_centred
        if labels is not None:
            labels = labels.to(torch.int64).clamp(0, len(rows) - 1)  # out of range: means are NaN
        return margins(self.backend, self._classes, rows, self.bias, feats, labels)

    @kept_property
    def classifier_centred(self) -> Tensor:
        """The classifier's rows minus their mean, which differences do not see, (K, D)."""
        return self.classifier - self.classifier.mean(0)

    @property
    def _classes(self) -> Classes:
        return Classes(self.moments.means, self.moments.class_variances, self.moments.counts)

    @property
    def projected(self) -> Tensor:
        """`Margins.projected`, from the features or from the sums of a stream, (K,)."""
        if self.sums is None:
            return self.margins(spread=True).projected
        squares = given(self.sums.squares, "feats")
        return cantelli_sums(self._classes, self.classifier_centred, self.bias, squares)

    def _margins_of_each(self) -> Margins:
        """For many states, one after another: each has K^2 margins, which fill the memory."""
        batch = self.moments.counts.shape[:-1]
        weight = self.classifier.expand(*batch, *self.classifier.shape[-2:]).flatten(0, -3)
        bias = None if self.bias is None else self.bias.expand(*batch, -1).flatten(0, -2)
        found = [
            MetricInputs(
                moments, weight=rows, bias=None if bias is None else bias[i], backend=self.backend
            ).margins()
            for i, (moments, rows) in enumerate(zip(self.moments.each(), weight, strict=True))
        ]
        columns = (torch.stack(column) for column in zip(*found, strict=True))
        return Margins(*(column.reshape(*batch, -1) for column in columns))

    @kept_property
    def outside(self) -> Tensor:
        """Mean of the features from outside the distribution, (D,) float64."""
        if self.sums is not None and self.sums.outside is not None:
            return self.sums.outside
        ood = given(self.ood, "ood_feats")
        if not plain(ood):
            return ood.mean(0, dtype=torch.float64)
        # torch casts element by element: four times the time of one class
        one = ood.new_zeros(len(ood), dtype=torch.uint8)
        return class_moments(ood, one, num_classes=1, backend=self.backend).means[0]

    @kept_property
    def product_of_means(self) -> Tensor:
        """Sum of (mu_c - m)(mu_c - m)^T, (..., D, D)."""
        return self.centred.mT @ self.centred

    @kept_property
    def axes(self) -> Axes:
        """Singular values and right singular vectors of the centred means."""
        if self._few is not None and self._few.spectral and self._few.wide:
            return self._few.axes()
        axes = principal_axes(self.centred)
        size = max(self.centred.shape[-2:])
        return axes._replace(values=nonzero_singular(axes.values, size, self.moments.norm_mean))

    # Of the features: one state.

    @property
    def samples(self) -> tuple[Tensor, Tensor]:
        """Features and labels."""
        return given(self.feats, "feats"), given(self.labels, "labels")

    @kept_property
    def scatter(self) -> Tensor:
        """Sigma_W, (D, D), population normalisation."""
        sums = None if self.sums is None else self.sums.scatter
        if sums is None:
            feats, labels = self.samples
            labels = labels.to(torch.int64).clamp(0, self.moments.num_classes - 1)
            sums = SCATTER.select(self.backend, feats)(feats, labels, self.moments.means)
        return sums * (1 / self.total + self.nan_if_invalid)  # one pass over D x D

    @kept_property
    def axis_sums(self) -> AxisSums | None:
        """`AxisSums` from the extension; None where it cannot, or where Sigma_W is formed."""
        few, feats, labels = self._few, self.feats, self.labels
        if few is None or not (few.spectral and few.wide) or feats is None or labels is None:
            return None
        if self._reads_scatter or not (_raw.readable(feats) and plain(labels)):
            return None
        return few.axis_sums(feats, labels)

    @property
    def _reads_scatter(self) -> bool:
        """Whether variances along axes come from Sigma_W, not from projections of the features."""
        # K - 1 directions cost K / D of the full scatter: form that only if it is wanted anyway
        wanted = self.sums is not None or "scatter" in self.planned
        return wanted or 2 * self.moments.num_classes > self.moments.dim

    @kept_property
    def axis_variances(self) -> Tensor:
        """v^T Sigma_W v for every direction v of `axes`, (R,)."""
        directions = self.axes.directions
        if self._reads_scatter:
            return ((directions @ self.scatter) * directions).sum(1)
        feats, labels = self.samples
        project = PROJECTION.select(self.backend, feats)
        squares = project(feats, labels, self.moments.means, directions)
        return squares / self.total + self.nan_if_invalid
