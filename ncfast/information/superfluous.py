"""Superfluous information I(Z;X|Y): what features keep of the inputs beyond the label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ncfast._arrays import Array, as_integer
from ncfast.information.estimate import Estimate, announce
from ncfast.information.mutual_information import JointNorm
from ncfast.information.preprocess import Preprocess
from ncfast.information.samples import (
    as_classes,
    as_samples,
    check_choice,
    check_same,
)
from ncfast.information.within_classes import (
    ESTIMATORS_INSIDE,
    Aligned,
    Estimator,
    Options,
    align,
    check_options,
    check_sigma,
    draw,
    input_code,
    measure,
)
from ncfast.ops.grouping import Labels


def _prepare(
    feats: Array, labels: Labels, inputs: Array, dim: int | None, options: Options
) -> Aligned:
    rows, classes = as_samples("feats", feats), as_classes("labels", labels)
    given = as_samples("inputs", inputs)
    check_same(feats=rows, labels=classes, inputs=given)
    check_options(classes, options, dim)
    code, explained = input_code(given, classes, dim, options.preprocess)
    return align(rows, classes, code, dim, explained)


@torch.no_grad()
def superfluous_information(
    feats: Array,
    labels: Labels,
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
    options = Options(as_integer("k", k), method, metric, preprocess, stderr, backend)
    aligned = _prepare(feats, labels, inputs, dim, options)
    return announce(measure(aligned, draw(aligned.code, generator), sigma, options))


@torch.no_grad()
def noise_sensitivity(
    feats: Array,
    labels: Labels,
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
    common = Options(as_integer("k", k), "channel", metric, preprocess, stderr, backend)
    for method in methods:
        check_choice("methods", method, tuple(ESTIMATORS_INSIDE))
    aligned = _prepare(feats, labels, inputs, dim, common)
    noise = draw(aligned.code, generator)
    return {
        (method, sigma): measure(aligned, noise, sigma, replace(common, method=method))
        for method in methods
        for sigma in sigmas
    }
