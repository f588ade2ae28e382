"""The information plane: I(Z;X) against I(Z;Y), with the superfluous information beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ncfast._arrays import Array, as_integer
from ncfast.information.caveats import BIAS
from ncfast.information.duplicates import private_generator
from ncfast.information.entropy import Norm, kl_terms
from ncfast.information.errors import jackknife_stderr
from ncfast.information.estimate import Estimate, announce
from ncfast.information.label_information import measure as measure_labels
from ncfast.information.mutual_information import JointNorm
from ncfast.information.mutual_information import measure as measure_inputs
from ncfast.information.neighbors import knn
from ncfast.information.preprocess import Preprocess, power_of_two, transform
from ncfast.information.reduction import Projection, principal
from ncfast.information.samples import (
    as_classes,
    as_samples,
    check_choice,
    check_same,
)
from ncfast.information.ties import Sample
from ncfast.information.within_classes import (
    ESTIMATORS_INSIDE,
    Estimator,
    Options,
    align,
    channel_terms,
    check_options,
    check_sigma,
    input_code,
)
from ncfast.information.within_classes import measure as measure_superfluous
from ncfast.ops.grouping import Labels


@dataclass(frozen=True)
class PlanePoint:
    """One layer at one log point, in nats, all for Z = g(X) + B_g sigma noise.

    Z depends on Y through X alone, so I(Z;X) = I(Z;Y) + I(Z;X|Y), up to what the codes lose.

    Attributes:
        inputs: I(Z;X) of the codes.
        labels: I(Z;Y); `details["label_entropy"]` is H(Y).
        superfluous: I(Z;X|Y), estimated inside each class; `details` hold its upper bounds.
        sigma: noise level relative to B_g.
        norm_max: B_g, the largest row norm of the features.
        explained_inputs: share of the variance of X that its code keeps.
        explained_feats: share of the variance of g(X) that the code for `inputs` keeps.
        explained_label_feats: the same of the code for `labels`.
    """

    inputs: Estimate
    labels: Estimate
    superfluous: Estimate
    sigma: float
    norm_max: float
    explained_inputs: float
    explained_feats: float
    explained_label_feats: float

    @property
    def gap(self) -> float:
        """I(Z;X) - I(Z;Y), a difference of two biased numbers; prefer `superfluous`."""
        return self.inputs.value - self.labels.value


class InformationPlane:
    """Estimates the information plane of features of one data set, many times.

    What depends on inputs and labels alone is computed once: the principal components of X, its
    code over all samples and inside each class, and for method "kl" its neighbours and entropy
    (KSG measures X only within distances that Z decides, so it has nothing to keep). The noise is
    the same at every call, so that differences between log points are not those of the noise.

    Args:
        inputs: (N, M) inputs X, flattened, or a code of them: tensor or NumPy array.
        labels: (N,) integers.
        dim: principal components of X and of Z for I(Z;X) and I(Z;X|Y); None keeps all columns.
        label_dim: principal components of Z for I(Z;Y); None takes K - 1, as many directions as
            class means span, and at least `dim`.
        sigma: standard deviation of the noise relative to B_g.
        k: neighbours.
        method: of I(Z;X): one of `mutual_information` between the codes, or "channel",
            h(Z) - h(noise), which needs no code of X and misses less; see
            `superfluous_information` for what it takes for granted.
        superfluous_method: of I(Z;X|Y), see `superfluous_information`.
        metric: joint distance.
        preprocess: see `mutual_information`.
        stderr: False saves the standard errors.
        backend: see `ncfast.information.neighbors.knn`.
        seed: of the noise, drawn from a private generator.

    Raises:
        TypeError, ValueError: see `superfluous_information`.

    Example:
        >>> import torch, ncfast
        >>> draw = torch.Generator().manual_seed(0)
        >>> x, labels = torch.randn(600, 2, generator=draw), torch.arange(600) % 2
        >>> x[:, 0] += 20 * labels  # the inputs tell the class
        >>> plane = ncfast.InformationPlane(x, labels, method="channel")
        >>> point = plane(x @ torch.tensor([[1.0, 0.0], [0.0, 0.1]]))  # most of the rest is gone
        >>> round(point.labels.value, 1), point.superfluous.value < point.inputs.value
        (0.7, True)
    """

    @torch.no_grad()
    def __init__(
        self,
        inputs: Array,
        labels: Labels,
        *,
        dim: int | None = 4,
        label_dim: int | None = None,
        sigma: float = 0.1,
        k: int = 5,
        method: Estimator = "ksg",
        superfluous_method: Estimator = "channel",
        metric: JointNorm = "l2max",
        preprocess: Preprocess = "standardize",
        stderr: bool = True,
        backend: str = "auto",
        seed: int = 0,
    ) -> None:
        check_sigma(sigma)
        rows, self.classes = as_samples("inputs", inputs), as_classes("labels", labels)
        check_same(inputs=rows, labels=self.classes)
        check_choice("method", method, tuple(ESTIMATORS_INSIDE))
        self.method = method
        k = as_integer("k", k)
        self.options = Options(k, superfluous_method, metric, preprocess, stderr, backend)
        check_options(self.classes, self.options, dim)
        self.dim, self.sigma, self.seed = dim, sigma, seed
        wanted = int(self.classes.max()) if label_dim is None else label_dim
        self.label_dim = max(wanted, dim or 1) if label_dim is None else label_dim
        overall = principal(rows, dim)
        self.explained = overall.explained
        self.code = transform(rows @ overall.axes, preprocess)
        self.inside = input_code(rows, self.classes, dim, preprocess)
        self.known = self._entropy_terms() if method == "kl" else None

    def _entropy_terms(self) -> Tensor:
        norm: Norm = "linf" if self.options.metric == "linf" else "l2"
        k = self.options.k
        found = knn(self.code, k, metric=norm, backend=self.options.backend)
        return kl_terms(self.code, k, None, norm, found)

    @torch.no_grad()
    def __call__(self, feats: Array) -> PlanePoint:
        """The plane's point of one layer.

        Args:
            feats: (N, D) features of the same samples in the same order.

        Returns:
            `PlanePoint`. Doubts of all three estimates are raised once as `EstimateWarning`.

        Raises:
            TypeError, ValueError: wrong types or shapes, another length, NaN.
        """
        rows = as_samples("feats", feats)
        check_same(feats=rows, labels=self.classes)
        aligned = align(rows, self.classes, self.inside[0], self.dim, self.inside[1])
        overall, by_label = self._components(rows)
        scale = aligned.norm_max * self.sigma
        superfluous = measure_superfluous(
            aligned, self._noise(aligned.code), self.sigma, self.options
        )
        by_labels, by_inputs = (
            replace(found, warnings=(*aligned.doubts, *found.warnings))
            for found in (self._labels(rows, by_label, scale), self._inputs(rows, overall, scale))
        )
        point = PlanePoint(
            _chain(by_inputs, by_labels, superfluous),
            by_labels,
            superfluous,
            self.sigma,
            aligned.norm_max,
            self.explained,
            overall.explained,
            by_label.explained,
        )
        for estimate in (point.inputs, point.labels, point.superfluous):
            announce(estimate)
        return point

    def _components(self, rows: Tensor) -> tuple[Projection, Projection]:
        """For I(Z;X) and for I(Z;Y); of the same decomposition where both are one."""
        small, large = self.dim, self.label_dim
        if small is None or max(small, large) >= rows.shape[1]:
            return principal(rows, small), principal(rows, large)
        both = principal(rows, max(small, large))
        return both.first(small), both.first(large)

    def _noise(self, like: Tensor) -> Tensor:
        generator = private_generator(like.device, self.seed)
        return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)

    def _noisy(self, rows: Tensor, onto: Projection, scale: float) -> Tensor:
        code = rows @ onto.axes
        # noise of the same variance in all directions stays so under a projection
        return code + scale * self._noise(code)

    def _inputs(self, rows: Tensor, onto: Projection, scale: float) -> Estimate:
        if self.method == "channel":
            return self._through_channel(rows, onto, scale)
        options = self.options
        noisy = transform(self._noisy(rows, onto, scale), options.preprocess)
        return measure_inputs(
            Sample((self.code, noisy), options.preprocess),
            options.k,
            self.method,
            options.metric,
            stderr=options.stderr,
            backend=options.backend,
            doubts=[],
            known=self.known,
            compare=False,
        )

    def _through_channel(self, rows: Tensor, onto: Projection, scale: float) -> Estimate:
        options, code = self.options, rows @ onto.axes
        noise = self._noise(code)
        blocks = (code / scale + noise, noise)

        def at(index: Tensor) -> float:
            part = [block[index] for block in blocks]
            terms = channel_terms(part, options.k, None, options.metric, options.backend)[0]
            return float(terms.mean())

        terms, engine = channel_terms(blocks, options.k, None, options.metric, options.backend)
        error = math.nan
        if options.stderr:
            error = jackknife_stderr(at, len(rows), options.k)
        dims = (code.shape[1],)
        return Estimate(float(terms.mean()), error, len(rows), options.k, "channel", dims, engine)

    def _labels(self, rows: Tensor, onto: Projection, scale: float) -> Estimate:
        noisy = self._noisy(rows, onto, scale)
        return measure_labels(
            noisy / power_of_two(noisy),
            self.classes,
            self.options.k,
            stderr=self.options.stderr,
            backend=self.options.backend,
        )


def _chain(inputs: Estimate, labels: Estimate, superfluous: Estimate) -> Estimate:
    """Add a doubt where I(Z;X) falls short of I(Z;Y) + I(Z;X|Y), its two parts."""
    parts = labels.value + superfluous.value
    # a standard error that is switched off is NaN and allows for nothing
    slack = 3 * sum(found.stderr**2 for found in (inputs, labels, superfluous)) ** 0.5
    if not parts - inputs.value > BIAS + (0.0 if math.isnan(slack) else slack):
        return inputs
    text = (
        f"I(Z;X) = {inputs.value:.2f} is less than I(Z;Y) + I(Z;X|Y) = {parts:.2f}: the estimator "
        "or the code of X misses a part of it."
    )
    return replace(inputs, warnings=(*inputs.warnings, text))


def information_plane(
    inputs: Array,
    feats: Array,
    labels: Labels,
    *,
    dim: int | None = 4,
    label_dim: int | None = None,
    sigma: float = 0.1,
    k: int = 5,
    method: Estimator = "ksg",
    superfluous_method: Estimator = "channel",
    metric: JointNorm = "l2max",
    preprocess: Preprocess = "standardize",
    stderr: bool = True,
    backend: str = "auto",
    seed: int = 0,
) -> PlanePoint:
    """The information plane of one layer at one log point; for many, keep an `InformationPlane`.

    Args:
        inputs: (N, M) inputs X, flattened, or a code of them.
        feats: (N, D) features of the same samples in the same order.
        labels: (N,) integers.
        dim: see `InformationPlane`, as for all that follow.
        label_dim: principal components of Z for I(Z;Y).
        sigma: noise level.
        k: neighbours.
        method: of I(Z;X).
        superfluous_method: of I(Z;X|Y).
        metric: joint distance.
        preprocess: of the codes.
        stderr: False saves the standard errors.
        backend: of the neighbour search.
        seed: of the noise.

    Returns:
        `PlanePoint`.

    Raises:
        TypeError, ValueError: see `superfluous_information`.

    Example:
        >>> import torch, ncfast
        >>> draw = torch.Generator().manual_seed(0)
        >>> x, labels = torch.randn(600, 2, generator=draw), torch.arange(600) % 2
        >>> x[:, 0] += 20 * labels
        >>> point = ncfast.information_plane(x, x, labels, method="channel")
        >>> round(point.labels.value, 1)  # ln 2
        0.7
    """
    plane = InformationPlane(
        inputs,
        labels,
        dim=dim,
        label_dim=label_dim,
        sigma=sigma,
        k=k,
        method=method,
        superfluous_method=superfluous_method,
        metric=metric,
        preprocess=preprocess,
        stderr=stderr,
        backend=backend,
        seed=seed,
    )
    return plane(feats)
