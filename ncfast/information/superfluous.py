"""Superfluous information I(Z;X|Y): what features keep of the inputs beyond the label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ncfast.information import caveats
from ncfast.information.duplicates import private_generator
from ncfast.information.entropy import Norm, kl_terms
from ncfast.information.errors import subsampled_stderr
from ncfast.information.estimate import Estimate, announce
from ncfast.information.label_information import cells
from ncfast.information.mutual_information import (
    ESTIMATORS,
    Blocks,
    JointNorm,
    Method,
    reference,
)
from ncfast.information.neighbors import knn
from ncfast.information.preprocess import Preprocess, by_class, transform
from ncfast.information.reduction import principal
from ncfast.information.samples import (
    Array,
    as_classes,
    as_samples,
    check_choice,
    check_k,
    check_same,
)
from ncfast.metrics.bounds import superfluous_information_bound

Estimator = Literal["channel"] | Method


@dataclass(frozen=True)
class Options:
    """How I(Z;X|Y) is estimated."""

    k: int
    method: Estimator
    metric: JointNorm
    preprocess: Preprocess
    stderr: bool
    backend: str


@dataclass(frozen=True)
class Aligned:
    """One pass over the same samples: row i of everything is sample i."""

    feats: Tensor  # (N, D), as they came
    code: Tensor  # (N, r), projected, without noise
    inputs: Tensor  # (N, s), projected and transformed inside each class
    classes: Tensor
    norm_max: float
    explained: Mapping[str, float]


def check_sigma(sigma: float) -> None:
    """Check the noise level.

    Raises:
        ValueError: it is not positive and finite.
    """
    if not 0 < sigma < math.inf:
        raise ValueError(
            f"Expected argument `sigma` to be positive and finite but got {sigma}. Without noise "
            "I(Z;X|Y) of a deterministic network is infinite, and no estimate of it means anything."
        )


def input_code(
    inputs: Tensor, classes: Tensor, dim: int | None, preprocess: Preprocess
) -> tuple[Tensor, float]:
    """Inputs projected and transformed inside each class, and the variance that is left."""
    axes, explained = principal(inputs, dim, classes)
    code = by_class(lambda part: transform(part, preprocess), inputs @ axes, classes)
    return code, explained


def align(
    feats: Tensor, classes: Tensor, code: Tensor, dim: int | None, explained: float
) -> Aligned:
    """The features beside an input code that is there already."""
    axes, kept = principal(feats, dim, classes)
    norm = float(torch.linalg.vector_norm(feats, dim=1).max())
    if norm == 0:
        raise ValueError(
            "Expected argument `feats` to have a row that is not zero but all are. The noise is "
            "relative to the largest row norm: look at the layer, it is dead."
        )
    shares = {"explained_feats": kept, "explained_inputs": explained}
    return Aligned(feats, feats @ axes, code, classes, norm, shares)


def channel_terms(
    blocks: Blocks, k: int, groups: Tensor | None, metric: JointNorm, backend: str
) -> tuple[Tensor, str]:
    """h(Z) - h(noise) of the blocks Z and noise: I(Z;X) when Z = g(X) + noise.

    The noise's entropy is known, and measured all the same, on the draw that is in Z: what is wrong
    with the estimator in so many dimensions is wrong with both, and without any signal the
    difference is zero to the digit.
    """
    norm: Norm = "linf" if metric == "linf" else "l2"
    noisy, noise = (knn(block, k, metric=norm, labels=groups, backend=backend) for block in blocks)
    difference = kl_terms(blocks[0], k, groups, norm, noisy)
    return difference - kl_terms(blocks[1], k, groups, norm, noise), noisy.backend


_INSIDE = {"channel": channel_terms, **ESTIMATORS}


def _terms(
    blocks: Blocks, classes: Tensor, groups: Tensor | None, options: Options
) -> tuple[Tensor, str]:
    """(N,) terms inside each class; NaN in a class of at most k members."""
    cell = cells(classes, groups)
    kept = torch.bincount(cell)[cell] > options.k
    out = torch.full_like(blocks[0][:, 0], torch.nan)
    part = [block[kept] for block in blocks]
    inside = torch.unique(cell[kept], return_inverse=True)[1]
    out[kept], engine = _INSIDE[options.method](
        part, options.k, inside, options.metric, options.backend
    )
    return out, engine


def measure(aligned: Aligned, noise: Tensor, sigma: float, options: Options) -> Estimate:
    """I(Z;X|Y) of aligned samples, without raising its warnings."""
    classes, k = aligned.classes, options.k
    blocks = _blocks(aligned, noise, sigma, options)
    counts = torch.bincount(classes)
    usable = counts > k

    def local(index: Tensor, groups: Tensor) -> Tensor:
        part = [block[index] for block in blocks]
        return _terms(part, classes[index], groups, options)[0]

    terms, engine = _terms(blocks, classes, None, options)
    value = float(terms.nanmean())
    smallest = 2 * (k + 1) * len(counts)
    error = math.nan
    if options.stderr:
        error = subsampled_stderr(local, len(classes), smallest, classes.device)
    kept = usable[classes]
    details = {"sigma": sigma, "norm_max": aligned.norm_max, **aligned.explained}
    details |= _bounds(aligned, sigma)
    if options.method != "channel":
        details["gaussian"] = reference(blocks[0][kept], blocks[1][kept])
    doubts = _doubts(value, error, counts, options, details)
    dims = (aligned.code.shape[1], aligned.inputs.shape[1])
    method = f"superfluous-{options.method}"
    return Estimate(value, error, int(kept.sum()), k, method, dims, engine, tuple(doubts), details)


def _blocks(aligned: Aligned, noise: Tensor, sigma: float, options: Options) -> Blocks:
    scale = aligned.norm_max * sigma
    if options.method == "channel":
        return (aligned.code / scale + noise, noise)
    noisy = aligned.code + scale * noise
    noisy = by_class(lambda part: transform(part, options.preprocess), noisy, aligned.classes)
    return (noisy, aligned.inputs)


def _bounds(aligned: Aligned, sigma: float) -> dict[str, float]:
    pair = (aligned.feats, aligned.classes)
    return {
        "logdet_bound": float(superfluous_information_bound(*pair, sigma=sigma)),
        "trace_bound": float(superfluous_information_bound(*pair, sigma=sigma, form="trace")),
    }


def _doubts(
    value: float, error: float, counts: Tensor, options: Options, details: Mapping[str, float]
) -> list[str]:
    usable = counts[counts > options.k]
    typical = int(usable.to(torch.float64).mean())
    texts = []
    if options.method != "channel":
        texts += caveats.ceiling(value, typical, options.k)
        texts += caveats.missed(value, error, details["gaussian"])
    texts += caveats.no_stderr(error) if options.stderr else []
    if len(usable) < len(counts):
        texts.append(
            f"{len(counts) - len(usable)} classes with at most k = {options.k} members were left "
            "out."
        )
    slack = caveats.BIAS + (0.0 if math.isnan(error) else 3 * error)
    if value > details["logdet_bound"] + slack:
        texts.append(
            f"The estimate {value:.2f} exceeds the log-det bound {details['logdet_bound']:.2f}, "
            "which the true value cannot."
        )
    return texts


def _prepare(
    feats: Array, labels: Array, inputs: Array, dim: int | None, options: Options
) -> Aligned:
    rows, classes = as_samples("feats", feats), as_classes("labels", labels)
    given = as_samples("inputs", inputs)
    check_same(feats=rows, labels=classes, inputs=given)
    check_options(classes, options, dim)
    code, explained = input_code(given, classes, dim, options.preprocess)
    return align(rows, classes, code, dim, explained)


def check_options(classes: Tensor, options: Options, dim: int | None) -> None:
    """Check what does not depend on the features.

    Raises:
        ValueError, TypeError: an unknown option; `k` or `dim` out of range; no class above k.
    """
    check_choice("method", options.method, tuple(_INSIDE))
    check_choice("metric", options.metric, ("l2max", "linf"))
    check_k(options.k, len(classes))
    largest = int(torch.bincount(classes).max())
    if largest <= options.k:
        raise ValueError(
            f"Expected a class with more than k = {options.k} members but the largest has "
            f"{largest}. Pass more samples or a smaller k."
        )
    if dim is not None and dim < 1:
        raise ValueError(f"Expected argument `dim` to be at least 1 or None but got {dim}.")


def draw(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Gaussian noise of the shape of a code, from a private generator unless given one."""
    if generator is None:
        generator = private_generator(like.device)
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)


@torch.no_grad()
def superfluous_information(
    feats: Array,
    labels: Array,
    inputs: Array,
    *,
    sigma: float,
    k: int = 5,
    method: Estimator = "channel",
    metric: JointNorm = "l2max",
    dim: int | None = None,
    preprocess: Preprocess = "standardize",
    stderr: bool = True,
    backend: str = "auto",
    generator: torch.Generator | None = None,
) -> Estimate:
    """Superfluous information I(Z;X|Y) = I(Z;X) - I(Z;Y) in nats, for Z = g(X) + B_g sigma noise.

    Theorem 3.4 of Sakamoto & Sato 2025, arXiv 2509.20829, is about this noisy Z: without noise the
    quantity is infinite. It is estimated inside each class, over the same samples, where no
    difference of two large numbers arises; and the upper bounds of the theorem stand beside it.

    "channel" uses that Z is a function of X plus noise that was drawn here:
    I(Z;X|Y) = h(Z|Y) - h(noise), both by nearest neighbours on the same draw, so that their biases
    cancel. It needs no neighbours in the space of X, and is the only one that still works in ten
    dimensions. It takes every variation of `feats` inside a class for information on X: features
    that are random given X (dropout, augmentation) need an estimator of dependence, such as "ksg".

    Args:
        feats: (N, D) features g(X): a tensor of any real dtype and device, or a NumPy array.
        labels: (N,) integers.
        inputs: (N, M) inputs X, or a code of them; row i of all three is the same sample.
        sigma: standard deviation of the noise relative to B_g, the largest row norm of `feats`.
        k: neighbours.
        method: "channel", or one of `mutual_information`: those miss most of a strong dependence.
        metric: see `mutual_information`.
        dim: reduce features and inputs to so many principal components of their scatter within
            classes; the result is then a lower bound. None takes them as they are.
        preprocess: applied inside each class, except by "channel"; see `mutual_information`.
        stderr: False saves the standard error.
        backend: see `ncfast.information.neighbors.knn`.
        generator: for the noise, on the device of `feats`; None takes a private one with a fixed
            seed. The training's random stream is never touched.

    Returns:
        `Estimate` with `details`: "logdet_bound" and "trace_bound" (of all columns, see
        `superfluous_information_bound`), "gaussian" (canonical correlations within classes; not for
        "channel"), "sigma", "norm_max", "explained_feats" and "explained_inputs" (shares of the
        variance within classes). It warns of classes left out because they have at most k members,
        near the ceiling psi(n_c) - psi(k), and where estimate and bound contradict each other.

    Raises:
        TypeError, ValueError: wrong types or shapes, lengths that differ, NaN, no class with more
            than k members, `sigma` not positive, an unknown option.

    Example:
        >>> import torch, ncfast
        >>> draw = torch.Generator().manual_seed(0)
        >>> x, labels = torch.randn(2000, 1, generator=draw), torch.arange(2000) % 2
        >>> feats = torch.where(labels == 1, 4.0, -4.0).unsqueeze(1) + 0.5 * x
        >>> found = ncfast.superfluous_information(feats, labels, x, sigma=0.1)
        >>> abs(found.value - found.details["logdet_bound"]) < 0.05  # Gaussian: equality
        True
    """
    check_sigma(sigma)
    options = Options(k, method, metric, preprocess, stderr, backend)
    aligned = _prepare(feats, labels, inputs, dim, options)
    return announce(measure(aligned, draw(aligned.code, generator), sigma, options))


@torch.no_grad()
def noise_sensitivity(
    feats: Array,
    labels: Array,
    inputs: Array,
    *,
    sigmas: Sequence[float],
    methods: Sequence[Estimator] = ("channel", "ksg", "kl"),
    k: int = 5,
    metric: JointNorm = "l2max",
    dim: int | None = None,
    preprocess: Preprocess = "standardize",
    stderr: bool = True,
    backend: str = "auto",
    generator: torch.Generator | None = None,
) -> dict[tuple[str, float], Estimate]:
    """`superfluous_information` over noise levels and estimators, with one draw of the noise.

    Args:
        feats: see `superfluous_information`, as for all other arguments.
        labels: (N,) integers.
        inputs: (N, M) inputs.
        sigmas: noise levels.
        methods: estimators.
        k: neighbours.
        metric: joint distance.
        dim: principal components.
        preprocess: inside each class.
        stderr: False saves the standard errors.
        backend: of the neighbour search.
        generator: for the noise.

    Returns:
        An `Estimate` for every (method, sigma). Its doubts are in `warnings` alone: a sweep goes
        where estimators fail on purpose, so no Python warning is raised.

    Raises:
        TypeError, ValueError: see `superfluous_information`.

    Example:
        >>> import torch, ncfast
        >>> x, labels = torch.randn(400, 1), torch.arange(400) % 2
        >>> swept = ncfast.noise_sensitivity(x, labels, x, sigmas=(0.1, 1.0), methods=("ksg",))
        >>> swept["ksg", 0.1].value > swept["ksg", 1.0].value
        True
    """
    for sigma in sigmas:
        check_sigma(sigma)
    common = Options(k, "channel", metric, preprocess, stderr, backend)
    for method in methods:
        check_choice("methods", method, tuple(_INSIDE))
    aligned = _prepare(feats, labels, inputs, dim, common)
    noise = draw(aligned.code, generator)
    return {
        (method, sigma): measure(aligned, noise, sigma, replace(common, method=method))
        for method in methods
        for sigma in sigmas
    }
