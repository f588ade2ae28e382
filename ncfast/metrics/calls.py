"""The calls that compute metrics: `collapse_metrics` for many at once, and one for each family."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ncfast._arrays import Array
from ncfast.metrics import decision, pairwise, variability
from ncfast.metrics.arguments import Features, as_inputs, as_moments, check_not_moments
from ncfast.metrics.catalogue import CATALOGUE, by_name, resolve, usable
from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import evaluate
from ncfast.moments import ClassMoments
from ncfast.ops.few_classes import traces, traces_of
from ncfast.ops.grouping import LabelPlan, Labels
from ncfast.ops.scalars import as_tensor
from ncfast.ops.spectra import eigenvalues
from ncfast.ops.summary import Traces


def collapse_metrics(
    feats_or_moments: Features,
    labels: Labels | None = None,
    *,
    weight: Array | None = None,
    bias: Array | None = None,
    ood_feats: Array | None = None,
    metrics: str | Sequence[str] = "all",
    num_classes: int | None = None,
    backend: str = "auto",
    which: str | Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Every collapse metric whose inputs are present.

    Metrics share intermediate results: one pass over the features for their class moments, one
    pass over the pairs of classes, one singular value decomposition of the means, one scatter
    matrix.

    Args:
        feats_or_moments: (N, D) features in floats of 16 to 64 bits, or their `ClassMoments`, which
            leaves out the metrics that read the features again.
        labels: (N,) integer class indices, or their `plan`; omitted with moments.
        weight: (K, D) rows of the linear classifier, for NC3, NC4 and the bounds.
        bias: (K,) its bias; zero when None, except for nc3.bias_collapse, which needs one.
        ood_feats: (M, D) features of inputs from outside the distribution, for NC5.
        metrics: "all" (every id whose inputs are there), "default" (the eight that a `Tracker`
            logs), an id ("nc1.cdnv"), a family ("nc2"), a tier of cost ("lite", "standard", "full",
            each with the cheaper ones), or a sequence of them.
        num_classes: K; None takes the rows of `weight`, or reads it off the labels, which
            synchronises with an accelerator.
        backend: see `class_moments`.
        which: the former name of ``metrics``, deprecated.

    Returns:
        A () float64 tensor for each metric id, on the features' device. Detached from the graph.

    Raises:
        ValueError, TypeError: see `class_moments`; an unknown name in `metrics`; an id asked for by
            name whose inputs are missing; a classifier or `ood_feats` of the wrong shape.

    Example:
        >>> import torch, ncfast
        >>> values = ncfast.collapse_metrics(torch.eye(3), torch.arange(3), metrics=["rnc1", "nc2"])
        >>> list(values)[:3]
        ['rnc1.max', 'rnc1.mean', 'nc2.condition']
    """
    if which is not None:
        warnings.warn(
            "The argument `which` of collapse_metrics is now `metrics`.",
            DeprecationWarning,
            stacklevel=2,
        )
        metrics = which
    chosen = resolve(metrics, CATALOGUE)
    inputs = as_inputs(
        feats_or_moments,
        labels,
        weight=weight,
        bias=bias,
        ood_feats=ood_feats,
        num_classes=num_classes,
        backend=backend,
    )
    computed = usable(chosen, inputs.given)
    if len(computed) < len(chosen):
        for name in by_name(metrics):
            _check_given(name, inputs)
    return evaluate(computed, inputs)


def _check_given(name: str, inputs: MetricInputs) -> None:
    """Raise ValueError unless every input that the metric needs was given."""
    missing = CATALOGUE[name].needs - inputs.given
    if not missing:
        return
    if inputs.feats is None and missing & {"scatter", "revisit"}:
        check_not_moments(inputs.moments, f"the metric {name!r}")
    arguments = {"classifier": "weight", "ood": "ood_feats"}
    named = " and ".join(f"`{arguments.get(need, need)}`" for need in sorted(missing))
    raise ValueError(
        f"Expected argument {named} for the metric {name!r} but got None. "
        f"See ncfast.describe({name!r})."
    )


def rnc1(
    feats: Features,
    labels: Labels | None = None,
    *,
    num_classes: int | None = None,
    scale: Literal["max", "mean"] = "max",
    around: ClassMoments | None = None,
    backend: str = "auto",
) -> Tensor:
    """Rescaled within-class variability RNC1 = Tr(Sigma_W) / B_g^2.

    Sigma_W has the population normalisation 1/N. Zero means collapsed. Blind to the distance
    between classes, unlike `nc1`.

    Args:
        feats: (N, D) features in floats of 16 to 64 bits, or their `ClassMoments`.
        labels: (N,) integer class indices, or their `plan`; omitted with moments.
        num_classes: K; None reads it off the labels, which synchronises with an accelerator.
        scale: B_g is the largest row norm ("max", Sakamoto & Sato 2025, arXiv 2509.20829) or the
            mean row norm ("mean", which the paper's figures use; it can move the other way).
        around: measure from the class means of these moments instead of the features' own: with
            unseen features around the means of the training set, drift counts as variability.
        backend: see `class_moments`.

    Returns:
        () float64 on the features' device; NaN when all features are zero, or when `around` lacks
        a class that the features have. Detached from the graph.

    Raises:
        ValueError, TypeError: see `class_moments`; an unknown `scale`; `around` of another shape.

    Example:
        >>> import torch, ncfast
        >>> feats = torch.tensor([[0.0, 2.0], [0.0, 1.0], [2.0, 0.0], [2.0, 0.0]])
        >>> ncfast.rnc1(feats, torch.tensor([0, 0, 1, 1]), num_classes=2).item()
        0.03125
    """
    if scale not in ("max", "mean"):
        raise ValueError(f"Expected argument `scale` to be 'max' or 'mean' but got {scale!r}.")
    given = isinstance(feats, ClassMoments)
    if around is None and backend == "auto" and not given:
        found = _traces(feats, labels, num_classes)
        if found is not None:
            return as_tensor(variability.rescaled_variability(found.within, _norm(found, scale)))
    if around is not None and num_classes is None and not given:
        num_classes = getattr(around, "num_classes", None)
    moments = as_moments(feats, labels, num_classes, backend)
    if given:  # two sums take less time than all traces
        trace, norm = moments.within_trace, _norm(moments, scale)
    else:
        found = traces(moments, backend)
        trace, norm = as_tensor(found.within), as_tensor(_norm(found, scale))
    if around is not None:
        trace = variability.within_trace_around(moments, around.detach())
    return variability.rescaled_variability(trace, norm)


def _traces(feats: Features, labels: Labels | None, num_classes: int | None) -> Traces | None:
    """The traces in one call; None where the arguments take a closer look."""
    if type(labels) is LabelPlan:
        num_classes, labels = labels.classes(num_classes), labels.labels
    if num_classes is None or (type(num_classes) is int and num_classes > 0):
        return traces_of(feats, labels, num_classes)
    return None


def _norm(found: Traces | ClassMoments, scale: str) -> Tensor:
    return found.norm_max if scale == "max" else found.norm_mean


def _one(
    family: str,
    variant: str,
    feats: Features,
    labels: Labels | None,
    num_classes: int | None,
    backend: str,
    **more: Array | None,
) -> Tensor:
    """A metric of a family; ``more`` are the other arguments of `as_inputs`."""
    metric_id = f"{family}.{variant}"
    metric = CATALOGUE.get(metric_id)
    if metric is None:
        known = [id_.split(".")[1] for id_ in CATALOGUE if id_.startswith(f"{family}.")]
        raise ValueError(f"Expected argument `variant` to be one of {known} but got {variant!r}.")
    inputs = as_inputs(feats, labels, num_classes=num_classes, backend=backend, **more)
    _check_given(metric_id, inputs)
    return evaluate({metric_id: metric}, inputs)[metric_id]


def nc1(
    feats: Features,
    labels: Labels | None = None,
    *,
    variant: str = "quotient",
    num_classes: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Within-class variability relative to the spread of the class means; zero means collapsed.

    Args:
        feats: (N, D) floats of 16 to 64 bits, or their `ClassMoments`, which suffice for
            "quotient", "quotient_sample", the "within_fraction" forms and "cdnv".
        labels: (N,) integer class indices, or their `plan`; omitted with moments.
        variant: "quotient": Tr(Sigma_W) / Tr(Sigma_B), Sigma_B unweighted (Tirer, Huang &
            Niles-Weed 2023); "quotient_sample": Sigma_B weighted by class sizes; "pinv":
            Tr(Sigma_W pinv(Sigma_B)) / P (Papyan, Han & Donoho 2020); "svd": its form truncated
            to P - 1 directions (Han, Papyan & Donoho 2022); "cdnv": see `cdnv`; "per_class":
            V_c / Tr(Sigma_B) of each class, Sigma_B unweighted, whose mean weighted by class sizes
            is "quotient". All of them: docs/metrics.md.
        num_classes: K; None reads it off the labels, which synchronises with an accelerator.
        backend: see `class_moments`.

    Returns:
        () float64, or (K,) for "per_class", NaN where a class is absent; infinite or NaN when the
        class means coincide or only one class is present. Detached from the graph.

    Raises:
        ValueError, TypeError: see `class_moments`; or an unknown `variant`.

    Example:
        >>> import torch, ncfast
        >>> feats = torch.tensor([[0.0, 2.0], [0.0, 1.0], [2.0, 0.0], [2.0, 0.0]])
        >>> round(ncfast.nc1(feats, torch.tensor([0, 0, 1, 1])).item(), 4)
        0.08
    """
    if variant == "per_class":
        with torch.no_grad():
            moments = as_moments(feats, labels, num_classes, backend)
            return variability.quotient_by_class(MetricInputs(moments, backend=backend))
    return _one("nc1", variant, feats, labels, num_classes, backend)


def cdnv(
    feats: Features,
    labels: Labels | None = None,
    *,
    variant: Literal["mean", "max", "matrix"] = "mean",
    exponent: float = 1.0,
    num_classes: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Class-distance normalised variance, averaged over pairs of classes.

    Mean over c != k of (V_c + V_k) / (2 norm(mu_c - mu_k)^2) with V_c = E[norm(g - mu_c)^2 | c]
    (Galanti, Gyorgy & Hutter 2021).

    Args:
        feats: (N, D) features in floats of 16 to 64 bits, or their `ClassMoments`.
        labels: (N,) integer class indices, or their `plan`; omitted with moments.
        variant: "mean" or "max" over pairs, or the whole (K, K) "matrix", NaN on the diagonal and
            for absent classes.
        exponent: the power of the squared distance; other than 1 it builds the matrix.
        num_classes: K; None reads it off the labels, which synchronises with an accelerator.
        backend: see `class_moments`.

    Returns:
        () float64, or (K, K); NaN when fewer than two classes are present. Detached from the graph.

    Raises:
        ValueError, TypeError: see `class_moments`; or an unknown `variant`.

    Example:
        >>> import torch, ncfast
        >>> feats = torch.tensor([[0.0, 2.0], [0.0, 1.0], [2.0, 0.0], [2.0, 0.0]])
        >>> ncfast.cdnv(feats, torch.tensor([0, 0, 1, 1])).item()
        0.02
    """
    if variant not in ("mean", "max", "matrix"):
        raise ValueError(
            f"Expected argument `variant` to be 'mean', 'max' or 'matrix' but got {variant!r}."
        )
    moments = as_moments(feats, labels, num_classes, backend)
    if variant != "matrix" and exponent == 1.0:
        name = "nc1.cdnv" if variant == "mean" else "nc1.cdnv_max"
        return evaluate({name: CATALOGUE[name]}, MetricInputs(moments, backend=backend))[name]
    matrix = pairwise.cdnv_matrix(moments, exponent)
    return matrix if variant == "matrix" else pairwise.over_pairs(matrix, moments.present, variant)


def nc2(
    feats: Features,
    labels: Labels | None = None,
    weight: Array | None = None,
    *,
    variant: str = "condition",
    num_classes: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Geometry of the class means: distance to an orthogonal frame or a simplex ETF.

    Args:
        feats: (N, D) features in floats of 16 to 64 bits, or their `ClassMoments`.
        labels: (N,) integer class indices, or their `plan`; omitted with moments.
        weight: (K, D) classifier rows, for the variants that end in "_weight" or "_weight_raw".
        variant: "condition": condition number of the uncentred means, 1 is an orthogonal frame of
            equal norms (Sakamoto & Sato 2025); the following are 0 at a simplex ETF, take means
            centred on the mean of class means, and go back to Papyan, Han & Donoho 2020:
            "equinorm": standard deviation over mean of their norms;
            "equiangular": mean of abs(cos + 1 / (K - 1)) over pairs;
            "etf_error": Frobenius distance of their normalised Gram matrix from that of the ETF.
            Cosines, coherence and hyperspherical energies: docs/metrics.md.
        num_classes: K; None reads it off the labels, which synchronises with an accelerator.
        backend: see `class_moments`.

    Returns:
        () float64. Absent classes are left out. With fewer than two classes all but "condition"
        are NaN; "condition" is infinite for linearly dependent means. Detached from the graph.

    Raises:
        ValueError, TypeError: see `class_moments`; or an unknown `variant`.

    Example:
        >>> import torch, ncfast
        >>> round(ncfast.nc2(torch.eye(3), torch.arange(3), variant="etf_error").item(), 6)
        0.0
    """
    return _one("nc2", variant, feats, labels, num_classes, backend, weight=weight)


def nc3(
    feats: Features,
    labels: Labels | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    variant: str = "self_duality",
    num_classes: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Self-duality: whether the classifier's rows are the centred class means, up to scale.

    Args:
        feats: (N, D) features in floats of 16 to 64 bits, or their `ClassMoments`.
        labels: (N,) integer class indices, or their `plan`; omitted with moments.
        weight: (K, D) classifier rows.
        bias: (K,) its bias, for "bias_collapse".
        variant: "self_duality": norm_F(W / norm_F(W) - M / norm_F(M)) (Papyan, Han & Donoho 2020);
            "cross_coherence": distance of W M^T from the simplex ETF (Zhu et al. 2021); "cosine":
            mean cos(w_c, mu_c - m), 1 when dual; "uniform_duality", "bias_collapse",
            "weight_sum" and more: docs/metrics.md.
        num_classes: K; None takes the rows of `weight`.
        backend: see `class_moments`.

    Returns:
        () float64; NaN with fewer than two classes. Rows of absent classes are left out.
        Detached from the graph.

    Raises:
        ValueError, TypeError: see `class_moments`; an unknown `variant`; a missing classifier.

    Example:
        >>> import torch, ncfast
        >>> weight = torch.eye(3) - 1 / 3
        >>> round(ncfast.nc3(torch.eye(3), torch.arange(3), weight, variant="cosine").item(), 6)
        1.0
    """
    return _one("nc3", variant, feats, labels, num_classes, backend, weight=weight, bias=bias)


def nc4(
    feats: Array,
    labels: Labels | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    variant: str = "agreement",
    num_classes: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Agreement of the classifier with the nearest class mean; one means they decide alike.

    Args:
        feats: (N, D) floats of 16 to 64 bits; not `ClassMoments`, which hold no decisions.
        labels: (N,) integer class indices, or their `plan`.
        weight: (K, D) classifier rows; only the "ncc_accuracy" forms do without.
        bias: (K,) its bias; zero when None.
        variant: "agreement": share of samples; "agreement_class": mean over classes of the share;
            "per_class": the share of each class, (K,), NaN where absent; "ncc_accuracy" and
            "ncc_accuracy_class": how often the nearest mean is that of the own class.
        num_classes: K; None takes the rows of `weight`, or reads it off the labels.
        backend: see `class_moments`.

    Returns:
        () float64, or (K,) for "per_class". Detached from the graph.

    Raises:
        ValueError, TypeError: see `class_moments`; an unknown `variant`; a missing classifier.

    Example:
        >>> import torch, ncfast
        >>> feats = torch.tensor([[2.0], [-0.5], [-1.0], [-6.0]])
        >>> weight = torch.tensor([[1.0], [-1.0]])
        >>> ncfast.nc4(feats, torch.tensor([0, 0, 1, 1]), weight).item()
        0.5
    """
    check_not_moments(feats, "nc4")
    if variant == "per_class":
        with torch.no_grad():
            inputs = as_inputs(
                feats, labels, weight=weight, bias=bias, num_classes=num_classes, backend=backend
            )
            _check_given("nc4.agreement_class", inputs)
            return decision.by_class(inputs, decision.agreements(inputs))
    return _one("nc4", variant, feats, labels, num_classes, backend, weight=weight, bias=bias)


def nc5(
    feats: Features,
    labels: Labels | None = None,
    ood_feats: Array | None = None,
    *,
    variant: str = "ood_cosine",
    num_classes: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Whether features from outside the distribution are orthogonal to the class means.

    Args:
        feats: (N, D) features in floats of 16 to 64 bits, or for "ood_cosine" their `ClassMoments`.
        labels: (N,) integer class indices, or their `plan`; omitted with moments.
        ood_feats: (M, D) features of inputs from outside the distribution.
        variant: "ood_cosine": mean over classes of abs(cos(mu_c, mean of ood_feats)) (Ben Ammar et
            al. 2024); "neco_auroc" and "neco_fpr95": how well the share of a feature's norm that
            lies in the top P - 1 principal components tells the two sets apart.
        num_classes: K; None reads it off the labels, which synchronises with an accelerator.
        backend: see `class_moments`.

    Returns:
        () float64. Detached from the graph.

    Raises:
        ValueError, TypeError: see `class_moments`; an unknown `variant`; missing `ood_feats`.

    Example:
        >>> import torch, ncfast
        >>> feats, labels = torch.tensor([[1.0, 0.0], [-2.0, 0.0]]), torch.tensor([0, 1])
        >>> ncfast.nc5(feats, labels, torch.tensor([[0.0, 3.0]])).item()
        0.0
    """
    return _one("nc5", variant, feats, labels, num_classes, backend, ood_feats=ood_feats)


class Spectra(NamedTuple):
    """Eigenvalues, largest first."""

    within: Tensor  # (D,) of Sigma_W
    between: Tensor  # (min(K, D),) of Sigma_B, classes counting the same; the others are zero


@torch.no_grad()
def spectra(
    feats: Array,
    labels: Labels | None = None,
    *,
    num_classes: int | None = None,
    backend: str = "auto",
) -> Spectra:
    """Eigenvalues of Sigma_W = E[(g - mu_c)(g - mu_c)^T] and of Sigma_B, largest first.

    Args:
        feats: (N, D) floats of 16 to 64 bits; not `ClassMoments`, which hold no covariance.
        labels: (N,) integer class indices, or their `plan`.
        num_classes: K; None reads it off the labels, which synchronises with an accelerator.
        backend: see `class_moments`.

    Returns:
        Spectra(within (D,), between (min(K, D),)), float64. Tr(Sigma_W) is the sum of the first.
        Detached from the graph.

    Raises:
        ValueError, TypeError: see `class_moments`.

    Example:
        >>> import torch, ncfast
        >>> feats = torch.tensor([[1.0, 0.0], [1.0, 2.0], [-1.0, 0.0], [-1.0, 2.0]])
        >>> found = ncfast.spectra(feats, torch.tensor([0, 0, 1, 1]))
        >>> [round(v, 9) for v in found.within.tolist() + found.between.tolist()]
        [1.0, 0.0, 1.0, 0.0]
    """
    check_not_moments(feats, "spectra")
    inputs = as_inputs(feats, labels, num_classes=num_classes, backend=backend)
    within = eigenvalues(inputs.scatter)
    return Spectra(within, inputs.axes.values.square() / inputs.number)
